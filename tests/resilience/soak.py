"""Many clients at once for a while: no call may fail, and every answer must belong to its question.

    python -m tests.resilience.soak [--models models] [--clients 200] [--seconds 60] [--engine litert]

Each client has a connection of its own and asks for 1 to 64 real headlines at a time, now and then over a stream. What comes
back is compared with what the same version answers to each headline alone, in this process and without a server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from harness import report
from harness.process import serving, versions
from harness.requests import Question, real_headlines
from headlines.client import AsyncClient, Headline, Prediction
from service.model import artifact, engines
from service.model import preprocessing as service_preprocessing
from service.model.version import Version

TOLERANCE = 1e-5
SIZES = (1, 1, 1, 2, 8, 64)  # headlines in a call
STREAMED = 0.1  # of the calls

Answers: TypeAlias = Mapping[int, Sequence[tuple[float, float]]]  # both outputs for each question, by the version's number


@dataclass
class Tally:
    """What came of the calls of one or several clients."""

    calls: int = 0  # that were answered
    headlines: int = 0
    wrong: int = 0  # answers that are not their question's
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds that an answered call took

    def add(self, other: Tally) -> None:
        """Count also what another one counted."""
        self.calls += other.calls
        self.headlines += other.headlines
        self.wrong += other.wrong
        self.errors += other.errors
        self.slowest = max(self.slowest, other.slowest)


def expect(version: Path, questions: Sequence[Question]) -> list[tuple[float, float]]:
    """What each headline's answer must be by the version in this directory."""
    loaded = Version.load(artifact.read(version), engines.choose("litert"))
    return [
        loaded.predict([service_preprocessing.Headline(text, posted_at.timestamp(), outlet)]).rows()[0][:2]
        for text, posted_at, outlet in questions
    ]


def count_wrong(answers: Answers, chosen: Sequence[int], predictions: Sequence[Prediction]) -> int:
    """How many predictions are not what their version answers to these questions."""
    return sum(
        prediction.model_version not in answers
        or max(abs(a - b) for a, b in zip(answers[prediction.model_version][i], prediction[:2], strict=True)) > TOLERANCE
        for i, prediction in zip(chosen, predictions, strict=True)
    )


async def ask(
    client: AsyncClient,
    questions: Sequence[Question],
    answers: Answers,
    going: Callable[[], bool],
    rng: random.Random,
    pause: float = 0.0,
) -> Tally:
    """One client's life while it is `going`, with a pause in seconds after each call."""
    tally = Tally()
    while going():
        chosen = [rng.randrange(len(questions)) for _ in range(rng.choice(SIZES))]
        headlines = [Headline(*questions[i]) for i in chosen]
        began = time.monotonic()
        try:
            if rng.random() < STREAMED:
                answered = [it async for it in client.predict_stream(headlines)]
                predictions = [it for it in answered if isinstance(it, Prediction)]
            else:
                predictions = await client.predict(headlines)
        except Exception as error:
            tally.errors.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.01)
            continue
        tally.add(Tally(1, len(chosen), count_wrong(answers, chosen, predictions), [], time.monotonic() - began))
        await asyncio.sleep(pause)
    return tally


async def ask_all(
    target: str,
    questions: Sequence[Question],
    answers: Answers,
    going: Callable[[], bool],
    clients: int,
    pause: float = 0.0,
    timeout: float = 5.0,
) -> Tally:
    """Clients that ask at the same time, each over a connection of its own; `timeout` is AsyncClient's."""
    tally = Tally()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(AsyncClient(target, timeout=timeout)) for _ in range(clients)]
        lives = [ask(client, questions, answers, going, random.Random(i), pause) for i, client in enumerate(connections)]
        for life in await asyncio.gather(*lives):
            tally.add(life)
    return tally


def main() -> None:
    """Read the flags, start a server, ask."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engine", default="litert")
    args = parser.parse_args()
    questions = real_headlines(5000)
    version = versions(args.models)[0]
    answers = {int(version.name): expect(version, questions)}
    with serving(args.models, "--engine", args.engine) as server:
        until = time.monotonic() + args.seconds
        going = lambda: time.monotonic() < until  # noqa: E731
        tally = asyncio.run(ask_all(server.target, questions, answers, going, args.clients, timeout=30))
    print(f"clients {args.clients}, seconds {args.seconds:g}")
    print(f"calls {tally.calls}, headlines {tally.headlines}, slowest call {tally.slowest:.3f} s")
    print(f"errors {len(tally.errors)}, wrong answers {tally.wrong}")
    report.require_none(
        [*tally.errors, *(["a wrong answer"] * tally.wrong), *([] if tally.calls else ["no call was answered"])]
    )


if __name__ == "__main__":
    report.run(main)
