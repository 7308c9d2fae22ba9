"""Headlines in, predictions out, whoever asks: the service without its transport.

predictor = Predictor(repository, batcher)
answer = await predictor.predict([Headline("City votes on new park", time.time(), "gazette")])
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.batcher import Admission, Batcher
from service.errors import FieldViolation, InvalidRequest, Unavailable
from service.model.preprocessing import Headline, is_time, text_problem
from service.model.version import Prediction, Predictions, Version
from service.repository import Repository

_CHECKED_AT_ONCE = 32 << 10  # characters, between two turns of the event loop; strange ones take 0.1 us each
_VIOLATIONS = 20  # named in one error; a caller who has more learns no more from them


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    max_headlines: int = 1024
    max_text_bytes: int = 4096  # of one headline, in UTF-8


class Answer(NamedTuple):
    """Predictions in the order of the headlines, all by one version."""

    predictions: list[Prediction]
    version: int


def cost(headline: Headline) -> int:
    """What a headline adds to the cost of a batch: its bytes of UTF-8, to which the work on it is in proportion."""
    text, _, outlet = headline
    if text.isascii() and outlet.isascii():
        return len(text) + len(outlet)
    return len(text.encode("utf-8", "surrogatepass")) + len(outlet.encode("utf-8", "surrogatepass"))


# Called for each batch with the version's number, the headlines, and their predictions as columns.
Observer = Callable[[int, Sequence[Headline], Predictions], None]


class Predictor:
    """Answers requests with the version that is live when they come."""

    def __init__(
        self,
        repository: Repository,
        batcher: Batcher[Headline, Prediction],
        limits: Limits = Limits(),
        observer: Observer = lambda version, headlines, predictions: None,  # noqa: ARG005
    ) -> None:
        self._repository = repository
        self._batcher = batcher
        self.limits = limits
        self._observer = observer
        self._run: _Run | None = None

    def admit(self, headlines: int, deadline: float | None = None) -> Admission[Headline, Prediction]:
        """Reserve room for a request of so many headlines, before they are decoded. `deadline` is in the event loop's time.

        Parsing a thousand takes 0.06 ms, decoding them 1.2: refusing an overload after that would leave no time to answer.
        Raises InvalidRequest for none or too many, and Overloaded if there is no room or not enough time.
        """
        self._check_number(headlines)
        return self._batcher.admit(headlines, deadline)

    async def admit_bulk(self, headlines: int, deadline: float | None = None) -> Admission[Headline, Prediction]:
        """Wait for room for a request of so many headlines. Raises InvalidRequest for none or too many."""
        self._check_number(headlines)
        return await self._batcher.admit_bulk(headlines, deadline)

    async def predict(self, headlines: Sequence[Headline], admission: Admission[Headline, Prediction] | None = None) -> Answer:
        """Predict how popular these headlines will be; without an admission they are admitted first.

        Raises InvalidRequest, which names each field, such as headlines[3].text; Unavailable if no version is live; Overloaded
        and DeadlineExceeded.
        """
        if admission is None:
            with self.admit(len(headlines)) as admission:
                return await self.predict(headlines, admission)
        await self._check(headlines)
        version = self._repository.live
        if version is None:
            raise Unavailable("no model version is loaded")
        if self._run is None or self._run.version is not version:
            self._run = _Run(version, self._observer)
        return Answer(await admission.compute(self._run, headlines), version.number)

    def _check_number(self, headlines: int) -> None:
        most = self.limits.max_headlines
        if not headlines:
            raise InvalidRequest("no headline", [FieldViolation("headlines", f"is empty; send 1 to {most} headlines")])
        if headlines > most:
            problem = f"holds more than {most}; send at most {most} in a request"
            raise InvalidRequest("too many headlines", [FieldViolation("headlines", problem)])

    async def _check(self, headlines: Sequence[Headline]) -> None:
        longest = self.limits.max_text_bytes
        violations: list[FieldViolation] = []
        characters = 0
        for i, (text, posted_at, _) in enumerate(headlines):
            characters += len(text)
            if characters > _CHECKED_AT_ONCE:
                characters = 0
                await asyncio.sleep(0)
            if not is_time(posted_at):
                problem = "is not a valid time; it must lie between the years 1 and 9999"
                violations.append(FieldViolation(f"headlines[{i}].posted_at", problem))
            if problem := text_problem(text, longest):
                violations.append(FieldViolation(f"headlines[{i}].text", problem))
        if violations:
            raise InvalidRequest("headlines that cannot be scored", violations[:_VIOLATIONS])


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One version as what a batch goes through; requests of the same version share batches."""

    version: Version
    observer: Observer

    def __call__(self, headlines: Sequence[Headline]) -> list[Prediction]:
        columns = self.version.predict(headlines)
        self.observer(self.version.number, headlines, columns)
        return columns.rows()
