"""Headlines in, predictions out, whoever asks: the service without its transport.

predictor = Predictor(repository, batcher)
answer = await predictor.predict([Headline("City votes on new park", time.time(), "gazette")])
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

from service.batcher import Admission, Batcher
from service.errors import FieldViolation, InvalidRequest, Unavailable
from service.model.explanation import Explainable, Explanation
from service.model.preprocessing import END_OF_TIME, FIRST_SECOND, Fields, Headline, is_time, text_problem
from service.model.version import Outputs, Prediction, PredictionFields, Predictions, Row, Version
from service.repository import Repository

_CHECKED_AT_ONCE = 32 << 10  # characters, between two turns of the event loop; strange ones take 0.1 us each
_BYTES_PER_WORD = 6
MAX_EXPLAINED = 32  # headlines of a request to explain
_VIOLATIONS = 20  # named in one error; a caller who has more learns no more from them


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    max_headlines: int = 1024
    max_text_bytes: int = 4096  # of one headline, in UTF-8

    @property
    def max_explain_rows(self) -> int:
        """Of all headlines of a request to explain: it is at most as much work as the largest request to predict."""
        return self.max_headlines


class Answer(NamedTuple):
    """Predictions in the order of the headlines, all by one version."""

    rows: Sequence[PredictionFields]
    version: int

    @property
    def predictions(self) -> list[Prediction]:
        """The rows as Predictions, each of which takes four times as long to make as its row."""
        return [Prediction._make(row) for row in self.rows]


_Submitted: TypeAlias = tuple["asyncio.Future[Sequence[Any]]", int]


class Explained(NamedTuple):
    """Explanations in the order of the headlines, all by one version."""

    explanations: list[Explanation]
    version: int


# What a batch is made of, and what becomes of it; a batch holds one kind alone.
Item: TypeAlias = Fields | Row
Result: TypeAlias = PredictionFields | Outputs


def cost(items: Sequence[Item]) -> int:
    """What items add to the cost of a batch: bytes of UTF-8, to which the work on a headline is in proportion.

    A row costs as much as a headline with as many ordinary words.
    """
    if isinstance(items[0], Row):
        return _BYTES_PER_WORD * sum(len(ids) for ids, _ in cast("Sequence[Row]", items))
    texts, _, outlets = zip(*cast("Sequence[Fields]", items), strict=True)
    joined = "".join(texts + outlets)
    return len(joined) if joined.isascii() else len(joined.encode("utf-8", "surrogatepass"))


# Called for each batch with the version's number, the headlines, and their predictions as columns.
Observer = Callable[[int, Sequence[Fields], Predictions], None]


class Predictor:
    """Answers requests with the version that is live when they come."""

    def __init__(
        self,
        repository: Repository,
        batcher: Batcher[Item, Result],
        limits: Limits = Limits(),
        observer: Observer = lambda version, headlines, predictions: None,  # noqa: ARG005
    ) -> None:
        self._repository = repository
        self._batcher = batcher
        self.limits = limits
        self._observer = observer
        self._runs: _Runs | None = None

    def admit(
        self, headlines: int, deadline: float | None = None, cost: int | None = None, began: float | None = None
    ) -> Admission[Item, Result]:
        """Reserve room for a request of so many headlines, before they are decoded.

        `deadline`, and when the call `began`, are in the event loop's time. `cost` is the number of bytes of UTF-8 that the
        headlines have together, at most.

        Parsing a thousand takes 0.06 ms, decoding them 1.2: refusing an overload after that would leave no time to answer.
        Raises InvalidRequest for none or too many, and Overloaded if there is no room or not enough time.
        """
        if not 0 < headlines <= self.limits.max_headlines:
            check_number(headlines, self.limits.max_headlines)
        return self._batcher.admit(headlines, deadline, cost, began)

    async def admit_bulk(
        self, headlines: int, deadline: float | None = None, cost: int | None = None
    ) -> Admission[Item, Result]:
        """Wait for room for a request of so many headlines, as `admit` does. Raises InvalidRequest for none or too many."""
        check_number(headlines, self.limits.max_headlines)
        return await self._batcher.admit_bulk(headlines, deadline, cost)

    async def predict(self, headlines: Sequence[Fields], admission: Admission[Item, Result] | None = None) -> Answer:
        """Predict how popular these headlines will be; without an admission they are admitted first.

        Raises InvalidRequest, which names each field, such as headlines[3].text; Unavailable if no version is live; Overloaded
        and DeadlineExceeded.
        """
        if admission is None:
            with self.admit(len(headlines)) as admission:
                return await self.predict(headlines, admission)
        rows, version = self.submit(headlines, admission) or await self.check_and_submit(headlines, admission)
        return Answer(await rows, version)

    def submit(
        self, headlines: Sequence[Fields], admission: Admission[Item, Result], checked: bool = False
    ) -> _Submitted | None:
        """Enqueue headlines: a future of the rows of an Answer, and the version. None if they are to be checked first.

        Most are not, and no task has to wait for that. Raises as `predict`.
        """
        if not checked:
            longest = self.limits.max_text_bytes
            for text, posted_at, _ in headlines:
                if not (text.isascii() and 0 < len(text) <= longest and not text.isspace()):
                    return None
                if not FIRST_SECOND <= posted_at < END_OF_TIME:
                    return None
        run = self._runs
        if run is None or run.version is not self._repository.live:
            run = self._live()
        return admission.compute(run.headlines, headlines), run.version.number

    async def check_and_submit(self, headlines: Sequence[Fields], admission: Admission[Item, Result]) -> _Submitted:
        """As `submit`, for any headlines. Raises as `predict`."""
        await self._check(headlines)
        return cast("_Submitted", self.submit(headlines, admission, checked=True))

    async def compute(self, rows: Sequence[Row], admission: Admission[Item, Result]) -> tuple[list[Outputs], int]:
        """The outputs for rows that the caller has checked, and the version. They count as no headlines.

        Raises Unavailable if no version is live, and DeadlineExceeded.
        """
        run = self._live()
        return cast("list[Outputs]", await admission.compute(run.rows, rows)), run.version.number

    async def explain(self, headlines: Sequence[Headline], deadline: float | None = None) -> Explained:
        """Say what moves the scores of 1 to 32 headlines. `deadline` is in the event loop's time.

        The headlines are bulk requests one after another, so another caller waits for one batch of them at most. Their rows
        count as no headlines. Raises as `predict`, and InvalidRequest if the rows are too many; never Overloaded.
        """
        check_number(len(headlines), MAX_EXPLAINED)
        await self._check(headlines)
        run = self._live()
        explanations = []
        for question in await self._explainable(run.version, headlines):
            with await self._batcher.admit_bulk(len(question), deadline) as admission:
                outputs = cast("list[Outputs]", await admission.compute(run.rows, question.rows()))
            explanations.append(question.explain(outputs))
            await asyncio.sleep(0)  # to find the places of words may take a few milliseconds
        return Explained(explanations, run.version.number)

    async def _explainable(self, version: Version, headlines: Sequence[Headline]) -> list[Explainable]:
        questions: list[Explainable] = []
        left = self.limits.max_explain_rows
        for i, headline in enumerate(headlines):
            question = Explainable(version, headline)
            left -= len(question)
            if left < 0:
                most = self.limits.max_explain_rows
                problem = f"takes {len(question)} rows, and the headlines of a request at most {most} together"
                if i:
                    problem += "; send it and those after it in further requests"
                raise InvalidRequest("too many rows", [FieldViolation(f"headlines[{i}]", problem)])
            questions.append(question)
            await asyncio.sleep(0)
        return questions

    def _live(self) -> _Runs:
        version = self._repository.live
        if version is None:
            raise Unavailable("no model version is loaded")
        if self._runs is None or self._runs.version is not version:
            self._runs = _Runs(version, self._observer)
        return self._runs

    async def _check(self, headlines: Sequence[Fields]) -> None:
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


def check_number(headlines: int, most: int) -> None:
    """Raise InvalidRequest if a request holds none, or more than `most`."""
    if not headlines:
        raise InvalidRequest("no headline", [FieldViolation("headlines", f"is empty; send 1 to {most} headlines")])
    if headlines > most:
        problem = f"holds more than {most}; send at most {most} in a request"
        raise InvalidRequest("too many headlines", [FieldViolation("headlines", problem)])


class _Runs:
    """One version as what batches go through; requests of the same version and kind share them."""

    def __init__(self, version: Version, observer: Observer) -> None:
        def headlines(items: Sequence[Any]) -> list[PredictionFields]:
            columns = version.predict(items)
            observer(version.number, items, columns)
            main, aux, words, unknown_words, known = columns
            return list(zip(main, aux, words, unknown_words, known))  # noqa: B905  (a third of the time of strict=True)

        self.version = version
        # Bound once: what shares a batch is told by its run being the same object.
        self.headlines: Callable[[Sequence[Any]], list[PredictionFields]] = headlines
        self.rows: Callable[[Sequence[Any]], list[Outputs]] = version.compute
