"""The commands `model` and `outlets`: show what a server serves."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headlines.commands import Command, CommandError, Given, connection, console
from headlines.commands.connection import Connection
from headlines.commands.diagnosis import explained, no_model
from headlines.v1.popularity_pb2 import GetModelResponse, ModelVersion

_STATES = {
    ModelVersion.STATE_LOADING: "is being loaded",
    ModelVersion.STATE_LIVE: "live",
    ModelVersion.STATE_FAILED: "failed",
    ModelVersion.STATE_RETIRED: "retired: it was live, and another took its place",
}
_SPECIAL_IDS = 2  # of the vocabulary: padding and the unknown word
_TIME_FEATURES = {"hour_sin", "hour_cos", "weekday_sin", "weekday_cos"}
_OUTPUTS = {"aux": "words alone", "baseline": "a linear model, to compare with"}


def show_model(given: Given) -> int:
    """Print what is served; raises UsageError, and CommandError also if no model is live."""
    server = connection.read(given)
    output = console.Output()
    model = _ask(server)
    if given.get("json"):
        output.print(json.dumps(_fields(model)))
    else:
        for line in _describe(model, server.target):
            output.print(console.printable(line))
    if not model.version:
        raise CommandError(no_model(model, server))
    return 0


def list_outlets(given: Given) -> int:
    """Print the outlets that the model knows, sorted; raises UsageError, and CommandError also if no model is live."""
    server = connection.read(given)
    output = console.Output()
    model = _ask(server)
    if not model.version:
        raise CommandError(no_model(model, server))
    if given.get("json"):
        count = outlet_count(model)
        output.print(json.dumps({"outlets": sorted(model.outlets), "outlet_count": count, "model_version": model.version}))
        return 0
    for outlet in sorted(model.outlets):
        output.print(console.printable(outlet))
    console.note(f"Version {model.version} of the model knows {how_many_outlets(model)}.")  # not among the names, in a pipe
    return 0


def outlet_count(model: GetModelResponse) -> int:
    """How many outlets the model knows; servers before this field listed all of them."""
    return max(int(model.outlet_count), len(model.outlets))


def how_many_outlets(model: GetModelResponse) -> str:
    """The number of known outlets in words, and how many of them are listed if not all are."""
    count, listed = outlet_count(model), len(model.outlets)
    words = "no outlet" if not count else f"{count:,} outlet{'s' if count > 1 else ''}"
    return words if listed == count else f"{words}, of which the server lists {listed:,}"


def posts_learned_from(model: GetModelResponse) -> str:
    """The time of the posts that the model learned from, in words; empty if a server does not tell."""
    if not model.HasField("last_post_at"):
        return ""
    return f"posts of {model.first_post_at.ToDatetime():%Y-%m-%d} to {model.last_post_at.ToDatetime():%Y-%m-%d}"


def nearest_outlet(name: str, outlets: Iterable[str]) -> str | None:
    """The known outlet that the name most likely means: by its letters, by its initials, else by its spelling."""
    import difflib  # here, as json_format below: the command predict seldom needs them, and starts faster without

    by_letters = {letters: outlet for outlet in outlets if (letters := _letters(outlet))}
    words = [word for word in (_letters(word) for word in name.split()) if word]
    if words[:1] == ["the"]:
        words = words[1:]
    initials = "".join(word[0] for word in words)
    candidates = [_letters(name), "".join(words)]
    if len(words) > 1:
        candidates += [initials[:-1] + words[-1], initials]  # The New York Times: nytimes, nyt
    for candidate in candidates:
        if candidate in by_letters:
            return by_letters[candidate]
    found = difflib.get_close_matches("".join(words), by_letters, n=1, cutoff=0.7)
    return by_letters[found[0]] if found else None


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _ask(server: Connection) -> GetModelResponse:
    with explained(server), server.client() as client:
        return client.model(timeout=server.timeout)


def _fields(model: GetModelResponse) -> dict[str, Any]:
    """The message as JSON, with plain numbers for 64-bit ones and plain words for states."""
    from google.protobuf import json_format

    fields: dict[str, Any] = json_format.MessageToDict(
        model, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    fields["version"] = model.version
    fields["outlet_count"] = outlet_count(model)
    for version in fields["versions"]:
        version["version"] = int(version["version"])
        version["state"] = version["state"].removeprefix("STATE_").lower()
    return fields


def _describe(model: GetModelResponse, target: str) -> Iterator[str]:
    if not model.version:
        yield f"{model.name} at {target}: no version is live"
    else:
        yield f"{model.name} at {target}: version {model.version}, live for {_age(model.loaded_at.seconds)} ({model.engine})"
        yield f"  trained       {model.trained_at.ToDatetime():%Y-%m-%d %H:%M} UTC, {_age(model.trained_at.seconds)} ago"
        if posts := posts_learned_from(model):
            yield f"  learned from  {posts}"
        if model.synthetic:
            yield "  made up       it learned from made-up posts: its numbers say nothing about real headlines"
        yield f"  popular       {popular(model)}"
        if model.label_change:
            yield f"  changed       scores cannot be compared with those of {model.label_change}"
        words = f"{model.vocabulary_size - _SPECIAL_IDS:,} words"
        yield f"  knows         {words} and {how_many_outlets(model)} (`headlines outlets`)"
        yield f"  reads         the first {model.sequence_length} words of a headline"
        if not uses_time(model):
            yield "  posting time  makes no difference: it was worth nothing on later posts, or the posts had no hours"
        yield f"  digest        {model.digest}"
        yield ""
        yield from _evaluation(model.evaluation, {"main": judged_by(model), **_OUTPUTS}, stories=of_stories(model))
    yield "Limits of a request"
    yield (
        f"  {model.limits.max_headlines:,} headlines, {model.limits.max_text_bytes:,} bytes of UTF-8 in each, "
        f"{model.limits.max_message_bytes:,} bytes in all"
    )
    if model.versions:
        yield ""
        yield "Versions"
    for version in model.versions:
        yield f"  {version.version:<4} {_STATES.get(version.state, 'unknown')}" + (version.error and f": {version.error}")


def uses_time(model: GetModelResponse) -> bool:
    """Whether a score depends on the posting time; of servers before this field, it does."""
    return not set(model.frozen_features) >= _TIME_FEATURES


def beside_words(model: GetModelResponse) -> str:
    """What main_output is judged by beside the words."""
    return "time and outlet" if uses_time(model) else "the outlet"


def judged_by(model: GetModelResponse) -> str:
    """What main_output is judged by."""
    return "words, time and outlet" if uses_time(model) else "words and outlet"


def popular(model: GetModelResponse) -> str:
    """What the model calls popular, in words."""
    if model.label_description:
        return console.printable(model.label_description)
    if model.label == "above_median":  # a server before label_description
        return f"more engagement than {model.label_threshold:,g}, as half of the posts that the model learned from had"
    return model.label


def same_below(model: GetModelResponse, output: str) -> float | None:
    """The gap between two numbers of `output`, "main" or "aux", below which they are about the same; None: not measured."""
    return model.evaluation.get(f"{output}_pair_gap")


def of_stories(model: GetModelResponse) -> bool:
    """Whether the model learned which of a story's headlines does better."""
    return model.label == "above_story_mean"


def percent(share: float) -> str:
    """A probability or share in whole percents, which are 0 and 100 only if it is exactly that."""
    text = f"{100 * share:.0f}"
    if text == "0" and share > 0:
        return "<1 %"
    if text == "100" and share < 1:
        return ">99 %"
    return f"{text} %"


def _evaluation(figures: Mapping[str, float], outputs: Mapping[str, str], *, stories: bool) -> Iterator[str]:
    if "main_auc" not in figures:
        return
    share = f", {percent(figures['positive_share'])} of them popular" if "positive_share" in figures else ""
    yield f"How good it was on {figures.get('rows', 0):,.0f} later posts that it had not seen{share}"
    for output, meaning in outputs.items():
        if f"{output}_auc" not in figures:
            continue
        line = f"  {meaning}: ranks {percent(figures[f'{output}_auc'])} of pairs of a popular and another post right"
        if (pairs := figures.get(f"{output}_pair_accuracy")) is not None:
            line += f", {percent(pairs)} of pairs of one {'story' if stories else 'outlet'}"
        yield f"{line} (a coin: 50 %)"
    if (gap := figures.get("main_pair_gap")) is not None:
        yield f"  about the same: {'all numbers' if gap >= 1 else f'numbers less than {100 * gap:.0f} points apart'}"
    if (accuracy := figures.get("main_accuracy")) is not None:
        yield f"  tells popular from not at 50 %: right for {percent(accuracy)}"
    if (error := figures.get("main_calibration_error")) is not None:
        yield f"  percentages: {100 * error:.1f} points off on average"
    yield ""


def _age(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count:,} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


MODEL = Command(help="show what a server serves, and how good it is", flags=connection.FLAGS, run=show_model)
OUTLETS = Command(help="list the outlets that a server's model knows", flags=connection.FLAGS, run=list_outlets)
