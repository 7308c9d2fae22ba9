"""Many clients at once for a while: no call may fail, and every answer must belong to its question.

    python -m benchmarks.soak --models models [--clients 200] [--seconds 60] [--engine litert]

Each client has a connection of its own and asks for 1 to 64 real headlines at a time. What comes back is compared with what
the same version answers to each headline alone, in this process and without a server.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

from benchmarks.process import real_headlines, serving
from headlines.client import AsyncClient, Headline
from service import artifact, engines
from service import preprocessing as service_preprocessing
from service.version import Version

TOLERANCE = 1e-5


def expect(models: Path, questions: list[tuple]) -> list[tuple[float, float]]:
    """What each headline's answer must be."""
    version = Version.load(artifact.read(models / str(artifact.versions(models)[0])), engines.choose("litert"))
    return [
        version.predict([service_preprocessing.Headline(text, posted_at.timestamp(), outlet)])[0][:2]
        for text, posted_at, outlet in questions
    ]


async def ask(
    client: AsyncClient, questions: list[tuple], answers: list[tuple[float, float]], until: float, rng: random.Random
):
    """One client's life: calls, headlines, errors, wrong answers, worst latency."""
    calls = asked = wrong = 0
    errors: list[str] = []
    worst = 0.0
    while time.monotonic() < until:
        chosen = [rng.randrange(len(questions)) for _ in range(rng.choice((1, 1, 1, 2, 8, 64)))]
        began = time.monotonic()
        try:
            predictions = await client.predict([Headline(*questions[i]) for i in chosen], timeout=30)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        worst = max(worst, time.monotonic() - began)
        calls += 1
        asked += len(chosen)
        for i, prediction in zip(chosen, predictions, strict=True):
            wrong += max(abs(a - b) for a, b in zip(answers[i], prediction[:2], strict=True)) > TOLERANCE
    return calls, asked, errors, wrong, worst


async def run(target: str, questions: list[tuple], answers: list[tuple[float, float]], clients: int, seconds: float) -> None:
    """Let all clients ask, and print what came of it."""
    connections = [AsyncClient(target) for _ in range(clients)]
    until = time.monotonic() + seconds
    lives = await asyncio.gather(
        *(ask(client, questions, answers, until, random.Random(i)) for i, client in enumerate(connections))
    )
    for client in connections:
        await client.close()
    calls, asked, errors, wrong, worst = zip(*lives, strict=True)
    failed = [error for some in errors for error in some]
    print(f"clients {clients}, seconds {seconds:g}")
    print(f"calls {sum(calls)}, headlines {sum(asked)}, slowest call {max(worst):.3f} s")
    print(f"errors {len(failed)}, wrong answers {sum(wrong)}")
    for error in sorted(set(failed))[:10]:
        print("  ", error)
    if failed or any(wrong) or not all(calls):
        raise SystemExit(1)


def main() -> None:
    """Read the flags, start a server, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engine", default="litert")
    args = parser.parse_args()
    questions = real_headlines(5000)
    answers = expect(args.models, questions)
    with serving(args.models, "--engine", args.engine) as server:
        asyncio.run(run(server.target, questions, answers, args.clients, args.seconds))


if __name__ == "__main__":
    main()
