"""The command `predict`: asks a running server, and prints a table for people or JSON Lines for programs.

With --explain it also shows what moves each score: words, outlet and time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from headlines.client import Client, Explanation, Headline, InvalidRequest, Overloaded, Prediction, ServerError
from headlines.commands import Command, CommandError, Flag, Given, UsageError, connection, console, description
from headlines.commands.diagnosis import explained, no_model
from headlines.commands.flags import moment, yes_or_no
from headlines.v1.popularity_pb2 import GetModelResponse, ModelVersion

_PATIENCE = 5.0  # seconds
_UNSENDABLE = "\udcff"  # half a surrogate pair: the client refuses it, in its turn, whatever the server is


class Entry(NamedTuple):
    """A headline of the input, and where it stands there."""

    source: str  # "argument" or "line"
    number: int  # from 1
    text: str
    problem: str = ""  # why it cannot be sent


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Flags and headlines in any order."""
    parser.add_argument("operands", nargs="*", metavar="HEADLINE", help="a headline; - reads standard input, one a line")
    parser.epilog = "A headline that begins with - goes after --, as in `headlines predict -- '-5 degrees tonight'`."
    first, last = list(arguments), []
    if "--" in first:  # argparse does not take headlines after it and flags between headlines at once
        at = first.index("--")
        first, last = first[:at], first[at + 1 :]
    parsed, unknown = parser.parse_known_intermixed_args(first)
    if unknown:
        raise UsageError(
            f"there is no flag {unknown[0]}; --help lists the flags, and a headline that begins with - goes after --"
        )
    parsed.operands += last
    return parsed


def run(given: Given) -> int:
    """Print the predictions; 0, or 1 if a headline has none. Raises UsageError, and CommandError if no answer comes."""
    headlines = given.operands
    server = connection.read(given)
    posted_at, outlet = given.get("posted_at"), given.get("outlet", "")
    if not headlines:
        raise UsageError("name a headline, in quotes, or - to read headlines from standard input, one a line")
    output = console.Output()

    taken: deque[Entry] = deque()  # and not yet answered
    timeout = server.timeout or (None if "-" in headlines else _PATIENCE)
    deadline = None if timeout is None else time.monotonic() + timeout

    def asked() -> Iterator[Headline]:
        for entry in _entries(headlines):
            taken.append(entry)
            yield Headline(_UNSENDABLE if entry.problem else entry.text, posted_at, outlet)

    with explained(server), server.client() as client:
        model = _model(client, timeout or _PATIENCE, server)
        explains = given.get("explain", False)
        if explains and model and not model.limits.max_explain_rows:
            raise CommandError(f"the server at {server.target} cannot explain: it is older than this command; update it")
        table = _Effects if explains else _Table
        show = _JSONLines(output, posted_at, outlet) if given.get("json") else table(output, posted_at, outlet, model)
        failed = False
        answers = (
            _explanations(client, asked(), deadline) if explains else client.predict_stream(asked(), timeout=_left(deadline))
        )
        for answer in answers:
            entry = taken.popleft()
            if not isinstance(answer, InvalidRequest):
                show.answer(entry, answer)
            else:
                failed = True
                show.error(entry, entry.problem or _problem(answer))
        show.end()
    return int(failed)


def _entries(headlines: Sequence[str]) -> Iterator[Entry]:
    for number, text in enumerate(headlines, start=1):
        if text == "-":
            for line in console.lines():
                yield Entry("line", *line)
            continue
        try:
            text.encode()
        except UnicodeEncodeError:
            yield Entry("argument", number, text.encode(errors="surrogateescape").decode(errors="replace"), "is not UTF-8")
        else:
            yield Entry("argument", number, text)


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else max(0.001, deadline - time.monotonic())  # 0 is no time to a client


def _explanations(
    client: Client, headlines: Iterable[Headline], deadline: float | None
) -> Iterator[Explanation | InvalidRequest]:
    """One after another, so that each is shown as soon as it is there, and a malformed one harms no other."""
    for headline in headlines:
        try:
            yield from client.explain([headline], timeout=_left(deadline))
        except InvalidRequest as error:
            yield error


def _model(client: Client, timeout: float, server: connection.Connection) -> GetModelResponse | None:
    """What is served, so far as it is told. Raises ClientError if nobody answers, CommandError if there is no model."""
    try:
        model = client.model(timeout=timeout)
    except (ServerError, Overloaded):
        return None  # predictions may come all the same
    states = {version.state for version in model.versions}
    if not model.version and ModelVersion.STATE_LOADING not in states:  # one that loads is worth waiting for
        raise CommandError(no_model(model, server))
    return model


def _problem(error: InvalidRequest) -> str:
    """What is wrong with a headline, without its number in a request, which means nothing to the user."""
    return "; ".join(
        f"{violation.field.partition('].')[2]} {violation.description}".strip() for violation in error.violations
    ) or str(error)


class _JSONLines:
    """One object a headline, malformed ones too, so that a program can put the lines beside its own."""

    def __init__(self, output: console.Output, posted_at: datetime | None, outlet: str) -> None:
        self._output = output
        self._fields = {"posted_at": posted_at.isoformat() if posted_at else None, "outlet": outlet}

    def answer(self, entry: Entry, answer: Prediction | Explanation) -> None:
        prediction = answer.prediction if isinstance(answer, Explanation) else answer
        fields = {**prediction._asdict(), "best": prediction.best}
        if isinstance(answer, Explanation):
            words = [word._asdict() for word in answer.words]
            fields |= {"words": words, "outlet_effect": answer.outlet_effect, "time_effect": answer.time_effect}
        self._print(entry, fields)

    def error(self, entry: Entry, problem: str) -> None:
        self._print(entry, {"error": problem})

    def end(self) -> None:
        pass

    def _print(self, entry: Entry, answer: dict[str, object]) -> None:
        fields = {"headline": entry.text, entry.source: entry.number, **self._fields, **answer}
        self._output.print(json.dumps(fields))


class _Table:
    """One line a headline, printed as it comes; then what the numbers mean."""

    def __init__(self, output: console.Output, posted_at: datetime | None, outlet: str, model: GetModelResponse | None) -> None:
        self._output = output
        self._posted_at = posted_at
        self._outlet = outlet
        self._model = model or GetModelResponse()
        self._last: Prediction | None = None
        self._shown = 0
        self._wordless = False
        self._failed = False

    def answer(self, entry: Entry, answer: Prediction | Explanation) -> None:
        assert isinstance(answer, Prediction)
        prediction = answer
        if not self._last:
            self._output.print("   best  unknown words  headline")
        mark = self._count(prediction)
        count, unknown = prediction.word_count, prediction.unknown_word_count
        words = f"{unknown} of {count}" if count else "no words"
        self._row(f"{mark} {description.percent(prediction.best):>5}  {words:>13}  ", entry.text)

    def error(self, entry: Entry, problem: str) -> None:
        self._failed = True
        console.note(f"headlines predict: {entry.source} {entry.number}: {problem}")

    def end(self) -> None:
        if self._last:
            self._output.print()
            for note in self._notes(self._last):
                self._output.print(note)
        elif not self._failed:
            console.note("headlines predict: standard input held no headline")

    def _count(self, prediction: Prediction) -> str:
        """Note what the lines below the table depend on; returns the mark of a headline of which no word is known."""
        self._last = prediction
        self._shown += 1
        wordless = prediction.unknown_word_count == prediction.word_count
        self._wordless |= wordless
        return "!" if wordless else " "

    def _row(self, row: str, text: str) -> None:
        width = self._output.width and max(self._output.width - len(row), 10)
        self._output.print(row + console.cut(console.printable(text), width))

    def _notes(self, last: Prediction) -> Iterator[str]:
        judged = description.judged_by(self._model) if last.outlet_known else "its words alone"
        yield f"best: the chance that the post becomes popular, judged by {judged}."
        if self._model.version:
            yield f"popular: {description.popular(self._model)}."
        if self._shown > 1:
            yield from self._about_gaps(last)
        if self._wordless:
            rest = f"comes from {description.beside_words(self._model)} alone" if last.outlet_known else "means nothing"
            yield f"!: the model knows no word of this headline; the number {rest}."
        if not last.outlet_known:
            yield from self._about_outlets()
        if self._posted_at and not description.uses_time(self._model):
            yield "--posted-at made no difference: this version of the model does not use the posting time."
        yield f"Model version {last.model_version}" + self._about_posts()

    def _about_posts(self) -> str:
        if self._model.synthetic:
            return " learned from made-up posts: it says nothing about real headlines."
        posts = description.posts_learned_from(self._model)
        return f" learned from {posts}, and knows nothing newer." if posts else "."

    def _about_gaps(self, last: Prediction) -> Iterator[str]:
        gap = description.same_below(self._model, "main" if last.outlet_known else "aux")
        kind = "headlines of one story" if description.of_stories(self._model) else "posts of one account"
        if gap is not None and gap >= 1:
            yield f"All numbers are about the same: the model ranks fewer than 60 in 100 pairs of {kind} right."
        elif gap is not None:
            yield (
                f"Numbers less than {100 * gap:.0f} points apart are about the same: of {kind} so near, fewer than 60 in 100"
                " pairs are in the right order."
            )
        if self._model.version and not description.of_stories(self._model):
            yield "It compares posts; which of two wordings of one story is better it cannot tell."

    def _about_outlets(self) -> Iterator[str]:
        model = self._model
        if not model.version:
            return
        if not description.outlet_count(model):
            yield "The model knows no outlets: its data named none."
        elif not self._outlet:
            yield (
                f"No outlet was named. With --outlet NAME it judges by {description.beside_words(model)} too; "
                "`headlines outlets` lists them."
            )
        else:
            nearest = description.nearest_outlet(self._outlet, model.outlets)
            hint = f"is it {console.printable(nearest)!r}? " if nearest else ""
            yield (
                f"The model does not know the outlet {console.printable(self._outlet)!r}; {hint}"
                f"It knows {description.how_many_outlets(model)}: `headlines outlets`."
            )


class _Effects(_Table):
    """For each headline its score, and below it what moves it, the strongest words first; then what the numbers mean."""

    _unknown = False  # a headline has words that the model does not know
    _cut = False  # or does not read

    def answer(self, entry: Entry, answer: Prediction | Explanation) -> None:
        assert isinstance(answer, Explanation)
        explanation, prediction = answer, answer.prediction
        if self._last:
            self._output.print()
        mark = self._count(prediction)
        self._unknown |= prediction.unknown_word_count > 0
        self._cut |= prediction.word_count > len(explanation.words)
        self._row(f"{mark} {description.percent(prediction.best):>5}  ", entry.text)
        words: defaultdict[int, list[str]] = defaultdict(list)  # by points
        for word in explanation.words:
            points = round(100 * (word.main_effect if prediction.outlet_known else word.aux_effect))
            text = console.printable(entry.text[word.start : word.end] if word.start >= 0 else word.word)
            words[points].append(text if word.known else f"{text} ?")
        for points in sorted(words, key=lambda points: (-abs(points), points < 0)):
            head = f"  {f'{points:+}' if points else '0':>5}  "
            for line in console.wrapped(words[points], self._output.width and max(self._output.width - len(head), 10)):
                self._output.print(head + line)
                head = " " * len(head)
        if prediction.outlet_known:
            outlet = console.printable(self._outlet.strip())
            self._output.print(f"         {outlet} {_adds(explanation.outlet_effect)}.")
            if description.uses_time(self._model):
                time_effect = _adds(explanation.time_effect)
                self._output.print(f"         The posting time {time_effect}, compared with the average of the week.")

    def _notes(self, last: Prediction) -> Iterator[str]:
        best, *notes = super()._notes(last)
        yield best
        yield "points: the chance in percent less what it is without this word. They do not add up: words work together."
        yield "They say what moves the model's number, not what moves readers."
        if self._unknown:
            yield "?: the model does not know this word; all words that it does not know are the same to it."
        if self._cut:
            yield "Of a long headline the model reads the first 100 words."
        yield from notes


def _adds(effect: float) -> str:
    points = abs(round(100 * effect))
    if not points:
        return "makes no difference"
    amount = f"{points} point{'s' if points > 1 else ''}"
    return f"adds {amount}" if effect > 0 else f"takes {amount} away"


def _outlet(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None
    return given


PREDICT = Command(
    help="ask a server for predictions",
    flags=(
        Flag(name="outlet", parse=_outlet, help="the account that posts them, as the training data named it", metavar="NAME"),
        Flag(
            name="posted_at",
            parse=moment,
            help="when they are posted, with the zone, such as 2026-03-01T18:30Z",
            metavar="ISO",
            default="now",
        ),
        Flag(
            name="explain",
            parse=yes_or_no,
            help="also show what moves each score: words, outlet and time, each left out in turn",
            default=False,
        ),
        *connection.FLAGS,
    ),
    run=run,
    parse=_parse,
)
