"""The commands of the service: `serve` answers predictions, `healthcheck` asks the server whether it is ready."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from headlines.commands import Command, CommandError, Given, UsageError
from service import errors, settings, signals


def _serve(given: Given) -> int:
    mask = signals.block()  # before all that takes long: a signal that comes meanwhile must not be lost
    try:
        _run(given)
    except errors.UsageError as error:
        raise UsageError(str(error)) from error
    except errors.HeadlinesError as error:
        raise CommandError(str(error)) from error
    finally:
        signals.restore(mask)


def _run(given: Given) -> NoReturn:
    import logging

    from headlines.commands import registry
    from service import log

    if sys.stderr and sys.stderr.isatty():
        given.setdefault("drain_seconds", 0.0)  # whoever presses Ctrl-C looks at it; no load balancer does
    chosen = settings.Settings(**given)
    log.set_up(chosen.log_level, chosen.log_format)
    try:
        stop_signals = signals.StopSignals(log.close)
        for warning in (*given.warnings, *registry.unknown_variables(os.environ)):
            logging.getLogger(__name__).warning("%s", warning)
        try:
            from service import server
        except ModuleNotFoundError as error:
            raise UsageError(registry.not_installed(str(error.name), "service")) from error
        server.run(chosen, stop_signals)
    finally:
        log.close()


def _healthcheck(given: Given) -> int:
    from service import healthcheck

    return healthcheck.run(given)


SERVE = Command(help="answer predictions over gRPC", flags=settings.FLAGS, run=_serve, is_server=True)
HEALTHCHECK = Command(
    help="ask the server on this machine whether it is ready, as a container's HEALTHCHECK does",
    flags=tuple(flag for flag in settings.FLAGS if flag.name in {"http_host", "http_port"}),
    run=_healthcheck,
)
COMMANDS = {"serve": SERVE, "healthcheck": HEALTHCHECK}
