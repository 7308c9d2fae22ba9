"""The command `score`: files of headlines to scores, without a server."""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from headlines.commands import Command, CommandError, Flag, Given, UsageError, console, registry
from headlines.commands import flags as command_flags
from headlines.commands.flags import moment, one_of, path, text, whole, yes_or_no
from service import errors
from service.posts import flags
from service.posts.flags import Format

_log = logging.getLogger(__name__)


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    parser.add_argument("operands", nargs="*", metavar="FILE", help="as --data")
    return parser.parse_intermixed_args(arguments)


def _run(given: Given) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if command_flags.unknown(os.environ, SCORE.flags):  # another command's, or nobody's; to know it, all have to be imported
        for sentence in registry.unknown_variables(os.environ):
            _log.warning("%s", sentence)
    data = [*given.get("data", ()), *given.operands]
    if not all(data) or not data:
        raise UsageError("name a file of headlines, or - for standard input")
    try:
        return _score(given, data) if "out" in given else _list(given, data)
    except errors.UsageError as error:
        raise UsageError(str(error)) from error
    except errors.HeadlinesError as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else "score"
        raise UsageError(registry.not_installed(str(error.name), extra)) from error


def _list(given: Given, data: Sequence[str]) -> int:
    for name in ("workers", "on"):
        if name in given:
            raise UsageError(f"--{name} is for --out")
    logging.getLogger().setLevel(logging.WARNING)
    from service.model import engines
    from service.score import listing, workers

    output = console.Output()
    found = workers.find(given["models"], given.get("version"))
    version = workers.load(found, engines.choose(given.get("engine", "auto")))
    posted_at = given["posted_at"].timestamp() if "posted_at" in given else time.time()
    columns, rows = listing.read(version, data, Format(**flags.given_format(given)), posted_at)
    if given.get("json"):
        lines = listing.lines_of_json(rows, version.number)
    elif output.width is None:
        lines = listing.lines_of_csv(columns, rows, version.number)
    else:
        lines = listing.table(rows, version, output.width)
    for line in lines:
        output.print(line)
    if not rows:
        console.note("headlines score: the files hold no headline")
    return int(any(row.problem for row in rows))


def _score(given: Given, data: Sequence[str]) -> int:
    if given.get("json"):
        raise UsageError("--json is for a list on standard output; --out holds Parquet")
    from service.score import job
    from service.score.manifest import Options

    options = Options(
        models=given["models"],
        data=data,
        out=given["out"],
        version=given.get("version"),
        engine=given.get("engine", "auto"),
        posted_at=given["posted_at"].timestamp() if "posted_at" in given else None,
        written=Format(**flags.given_format(given)),
        workers=given.get("workers", 1),
        on=given.get("on", ""),
    )
    with _progress() as progress:
        done = job.run(options, progress)
    for line in job.describe(done):
        print(line)
    if done.failed:
        console.note(f"headlines score: {len(done.failed)} shards could not be read:")
        for problem in done.failed:
            console.note(f"  {problem}")
    return int(bool(done.failed))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line every five seconds."""
    if not (sys.stderr and sys.stderr.isatty()):
        from headlines.commands.progress import counting

        with counting("scoring shards") as tell:
            yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


SCORE = Command(
    help="score files of headlines without a server: a list to standard output, or Parquet to a directory",
    flags=(
        Flag(name="models", parse=path, help="the directory of model versions", metavar="DIR", required=True),
        Flag(
            name="data",
            parse=text,
            help="headlines: CSV, JSON, Parquet or Excel files, directories, patterns, s3://, or - for standard input; may be"
            " given more than once",
            metavar="FILE",
            several=True,
        ),
        Flag(
            name="out",
            parse=text,
            help="write the scores to this directory, or below a URI such as s3://, as Parquet; a job that was interrupted goes"
            " on if it is started again",
            default="a list, best first, to standard output",
            metavar="DIR",
        ),
        Flag(name="version", parse=whole(1), help="the version", default="the highest", metavar="N"),
        Flag(name="engine", parse=one_of("auto", "litert", "tensorflow"), help="what runs the model", default="auto"),
        Flag(name="workers", parse=whole(1, 1024), help="processes that score, or actors of Ray", default=1, metavar="N"),
        Flag(
            name="on",
            parse=one_of("ray"),
            help="score on the Ray cluster of RAY_ADDRESS, whose nodes have the same paths (the extra ray)",
            default="this machine",
            metavar="ray",
        ),
        Flag(
            name="posted_at",
            parse=moment,
            help="when headlines will be posted for which the file has no time",
            default="now",
            metavar="ISO",
        ),
        *flags.FLAGS,
        Flag(name="json", parse=yes_or_no, help="print the list as JSON Lines", default=False),
    ),
    run=_run,
    parse=_parse,
)
