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


def parse_and_exit(parser, arguments=None, namespace=None):
    args = parse_args(parser, arguments, namespace)
    if parser.prog.startswith("headlines "):
        return args  # flags.read comes next
    return finish()


def read_and_exit(arguments, _, flags):
    read(arguments, {}, flags)
    finish()


def finish():
    if imported := HEAVY & sys.modules.keys():
        sys.exit(f"imported before the flags were parsed: {', '.join(sorted(imported))}")
    sys.exit(0)


argparse.ArgumentParser.parse_args = parse_and_exit
sys.argv = sys.argv[1:]
if sys.argv[0] == "headlines":
    from headlines.commands import flags

    read, flags.read = flags.read, read_and_exit
runpy.run_module(sys.argv[0], run_name="__main__")
sys.exit("no flags were parsed")
