"""Inputs from an enemy: only documented errors, no crash, no growth in memory.

    python -m tests.resilience.fuzz --models models                         # a million inputs, the wire included; 15 minutes
    python -m tests.resilience.fuzz --models models --only data version --inputs 20000
    python -m tests.resilience.fuzz --models models --only data --guided    # by coverage; needs the extra `fuzz`

Each target reads in a process of its own. Random inputs follow from --seed, the target's name and their number alone, so what
is printed for a failure repeats it. By coverage, atheris chooses the inputs and --corpus keeps the telling ones. It ends with 1
if a promise is broken. `cpu model` hands damaged models with right checksums to LiteRT's C++, which promises nothing: what
becomes of it is shown, and whoever may write into MODELS is trusted.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import report
from tests.resilience.fuzz import mutation

# Inputs of a whole run. What is cheap has more; "wire" starts a server and is counted by tests.resilience.fuzz.server.
INPUTS = {
    "preprocessing": 200_000,
    "request": 200_000,
    "inference": 200_000,
    "version": 60_000,
    "consistent version": 40_000,
    "data": 60_000,
    "credentials": 20_000,
    "cpu model": 300,
    "wire": 450_000,
}
UNPROMISED = {"cpu model"}
GROWTH = 16 << 20  # bytes that a process may hold at the end beyond what it held after a fifth of its inputs
PATIENCE = 60  # seconds without a finished input, after which one is said to hang
_NAMED = 5  # failures that are shown


@dataclass
class Result:
    """What came of a target's inputs."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # how they ended
    failures: dict[str, str] = field(default_factory=dict)  # by place, one input each
    early: int = 0  # bytes held after a fifth of the inputs
    late: int = 0
    peak: int = 0


class _Run:
    """One target's inputs, in the process of their own, with notes that outlive it."""

    def __init__(self, name: str, models: Path, directory: Path, inputs: int) -> None:
        from tests.resilience.fuzz import targets  # here, so that coverage is seen of all that it imports

        logging.disable(logging.ERROR)  # it would tell what is wrong with each input; a fault is raised
        (directory / "work").mkdir()
        self.target = targets.make(name, models, directory / "work")
        self.result = Result()
        self._inputs = inputs
        self._directory = directory
        with (directory / "at").open("r+b") as file:
            self._at = mmap.mmap(file.fileno(), 8)

    def try_(self, data: bytes, repeat: str) -> None:
        """One input; `repeat` says how to make it again."""
        result = self.result
        self._at[:] = struct.pack("<q", result.inputs)
        try:
            result.outcomes[self.target.run(data)] += 1
        except BaseException as error:
            result.outcomes[f"FAILED: {type(error).__name__}"] += 1
            place = str(traceback.extract_tb(error.__traceback__)[-1])
            told = "".join(traceback.format_exception(error, limit=-4))
            result.failures.setdefault(place, f"{repeat}\n{data[:2000].hex()}\n{told}")
        result.inputs += 1
        if result.inputs == max(self._inputs // 5, 1):
            result.early = resident_bytes()
        if result.inputs % (1000 if self._inputs > 1000 else 1) == 0 or result.inputs == self._inputs:
            result.late = resident_bytes()
            result.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            (self._directory / "result").write_text(json.dumps(vars(result)))
        if result.inputs == self._inputs:
            sys.stdout.flush()
            os._exit(0)  # the guided one would go on for ever


def random_inputs(name: str, models: Path, directory: Path, seed: int, first: int, inputs: int) -> None:
    """The process of a target with random inputs, numbered from `first` on."""
    run = _Run(name, models, directory, inputs)
    for number in range(first, first + inputs):
        rng = random.Random(f"{seed} {name} {number}")
        data = mutation.mutate(run.target.seeds, rng, run.target.whole)
        run.try_(data, f'--only "{name}" --seed {seed} --first {number} --inputs 1')


def guided_inputs(name: str, models: Path, directory: Path, seed: int, corpus: Path, inputs: int) -> None:
    """The process of a target whose inputs are chosen by the branches that they reach."""
    import atheris

    with atheris.instrument_imports(include=["service", "training"]):
        run = _Run(name, models, directory, inputs)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(run.target.seeds):
        (corpus / f"seed-{number:04}").write_bytes(data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        if number % 2:
            return bytes(atheris.Mutate(data, most))
        return mutation.mutate([data, run.target.seeds[number % len(run.target.seeds)]], random.Random(number))[:most]

    flags = [
        f"-seed={seed or 1}",
        "-max_len=200000",
        "-len_control=0",
        "-rss_limit_mb=0",
        "-verbosity=0",
        f"-artifact_prefix={directory}/",
    ]
    atheris.Setup(["fuzz", *flags, str(corpus)], lambda data: run.try_(data, "by coverage"), custom_mutator=mutate)
    atheris.Fuzz()


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def fuzz(name: str, inputs: int, args: argparse.Namespace) -> bool:
    """Fuzz one target and print its row; whether all was as it should be."""
    began = time.monotonic()
    total = Result()
    failures: list[str] = []
    done = 0
    while done < inputs and len(failures) < _NAMED:  # a process that dies is followed by another
        repeat = f'--only "{name}" --seed {args.seed} --first'
        result, at, ending = _try_process(name, args, args.first + done, inputs - done)
        total.inputs += result.inputs
        total.outcomes = Counter(total.outcomes) + Counter(result.outcomes)
        total.early, total.late = total.early or result.early, result.late or total.late
        total.peak = max(total.peak, result.peak)
        failures += result.failures.values()
        if not ending:
            break
        total.outcomes[ending] += 1
        if name not in UNPROMISED:
            failures.append(f"{ending}: {repeat} {args.first + done + at} --inputs 1")
        done += at + 1
    if total.late > total.early + GROWTH and name not in UNPROMISED:
        failures.append(f"memory grew by {(total.late - total.early) / 1e6:.0f} MB")
    outcomes = ", ".join(f"{outcome} {number}" for outcome, number in sorted(total.outcomes.items()))
    memory = "".join(f"{it / 1e6:>8.0f}" for it in (total.early, total.late, total.peak))
    print(f"{name:20}{total.inputs:>9}{time.monotonic() - began:>7.0f}{memory}  {outcomes}", flush=True)
    for failure in failures[:_NAMED]:
        print(failure, flush=True)
    return not failures


def _try_process(name: str, args: argparse.Namespace, first: int, inputs: int) -> tuple[Result, int, str]:
    """One process: what it noted, the input at which it was last, and how it died, if it did."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "at").write_bytes(struct.pack("<q", -1))
        if args.guided:
            corpus = (args.corpus or directory) / name.replace(" ", "-")
            arguments: tuple[Any, ...] = (name, args.models, directory, args.seed, corpus, inputs)
        else:
            arguments = (name, args.models, directory, args.seed, first, inputs)
        process = multiprocessing.get_context("spawn").Process(
            target=guided_inputs if args.guided else random_inputs, args=arguments
        )
        process.start()
        at, since, ending = -1, time.monotonic(), ""
        while process.is_alive():
            process.join(1)
            now = struct.unpack("<q", (directory / "at").read_bytes())[0]
            if now != at:
                at, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                process.kill()
                process.join()
                ending = "HANGS"
        if process.exitcode and not ending:
            ending = f"DIED: {signal.Signals(-process.exitcode).name if process.exitcode < 0 else process.exitcode}"
        written = directory / "result"
        result = Result(**json.loads(written.read_text())) if written.exists() else Result()
        return result, struct.unpack("<q", (directory / "at").read_bytes())[0], ending


def main() -> None:
    """Fuzz, and print a table."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--only", nargs="+", action="extend", choices=INPUTS, metavar="TARGET", help=", ".join(INPUTS))
    parser.add_argument("--inputs", type=int, help="of each target, instead of its share of a million")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first random input")
    parser.add_argument("--guided", action="store_true", help="let coverage choose the inputs; not for the wire")
    parser.add_argument("--corpus", type=Path, help="where the inputs that reached something new are kept")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    print(f"{'target':20}{'inputs':>9}{'s':>7}{'MB early':>9}{'end':>7}{'peak':>8}  outcomes")
    broken = []
    for name in args.only or INPUTS:
        inputs = args.inputs or INPUTS[name]
        if name != "wire":
            kept = fuzz(name, inputs, args)
        else:
            from tests.resilience.fuzz import server

            kept = args.guided or server.fuzz(args.models, inputs, args.seed)
        if not kept:
            broken.append(f"{name}: not as it should be; see its row")
    report.require_none(broken)
