"""Run a module's command no further than its flags: `python tests/commands_parse.py MODULE ARGUMENTS...`.

Exits with 1 if anything heavy was imported before the flags were parsed.
"""

import argparse
import runpy
import sys
from pathlib import Path

HEAVY = {"keras", "matplotlib", "sklearn", "tensorflow"}

sys.path.insert(0, str(Path.cwd()))
parse_args = argparse.ArgumentParser.parse_args
parse_intermixed = argparse.ArgumentParser.parse_known_intermixed_args


def parse_and_exit(parser, arguments=None, namespace=None):
    finish(parse_args(parser, arguments, namespace))


def parse_intermixed_and_exit(parser, arguments=None, namespace=None):
    args, unknown = parse_intermixed(parser, arguments, namespace)
    if unknown:
        sys.exit(f"unknown: {unknown}")
    finish(args)


def finish(args):
    if imported := HEAVY & sys.modules.keys():
        sys.exit(f"imported before the flags were parsed: {', '.join(sorted(imported))}")
    if hasattr(args, "flags"):
        from training import flags

        flags.read(args, {})
    elif getattr(args, "command", None) == "serve":
        from service import settings

        settings.read(args, {})
    sys.exit(0)


argparse.ArgumentParser.parse_args = parse_and_exit
argparse.ArgumentParser.parse_known_intermixed_args = parse_intermixed_and_exit
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
sys.exit("no flags were parsed")
