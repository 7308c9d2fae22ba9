"""How good a model is, in words: the sentences that open its report, and MODEL_CARD.md in its directory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from service.model.artifact import ModelInfo
from training.comparison import Comparison
from training.evaluate import Evaluation
from training.pairs import TELLING
from training.resampling import Estimate

NAME = "MODEL_CARD.md"
UPPER_BOUND = (
    "What a headline says foretells its popularity modestly at best: what else is in the news, the picture and luck decide much"
    " of it (Hagar, Diakopoulos and DeWilde, Anticipating Attention, Digital Journalism, 2021)."
)


def lead(evaluation: Evaluation) -> str:
    """The figure of one's own account, in pairs."""
    main = evaluation.models["main"].estimates
    what = "headlines of one story" if evaluation.of_stories else "posts of one account"
    if pairs := main.get("pair_accuracy"):
        return f"Of two {what}, it gives the better one the higher number {_times(pairs)}; a coin would be right 50 times."
    if auc := main.get("auc"):
        return f"Of a popular and another post, it gives the popular one the higher number {_times(auc)}; a coin: 50 times."
    return "All posts that it was tried on are of one kind, popular or not, so nobody can say how well they are told apart."


def sentences(evaluation: Evaluation) -> list[str]:
    """What else to know before its numbers are believed."""
    found = []
    main, aux = evaluation.models["main"], evaluation.models["aux"]
    gap = evaluation.pair_gap.get("main")
    if gap is not None and gap >= 1:
        found.append(f"No difference between two numbers is large enough to be right {TELLING * 100:.0f} times in 100.")
    elif gap is not None:
        found.append(
            f"Numbers less than {gap * 100:.0f} points apart are about the same: of such pairs fewer than"
            f" {TELLING * 100:.0f} in 100 are in the right order."
        )
    if pairs := aux.estimates.get("pair_accuracy"):
        found.append(f"From the words alone, as for an account that it does not know, it is right {_times(pairs)}.")
    if difference := main.less_baseline.get("pair_accuracy"):
        own, counting = (evaluation.models[name].estimates["pair_accuracy"].value * 100 for name in ("main", "baseline"))
        found.append(
            f"Simply counting words, with the same time and account, is right {counting:.1f} times in 100, this model {own:.1f}"
            f" times: {_verdict(difference)}."
        )
    points = main.estimates["calibration_error"].value * 100
    found.append(f"Read as a chance, a number is off by {points:.1f} percentage points on average.")
    if not evaluation.of_stories:
        found.append("It compares posts, and cannot tell which of two wordings of one story is better.")
    return found


def about_time(info: ModelInfo) -> str:
    """Whether the posting time counts, and what it was worth."""
    worth = info.time_worth
    if info.frozen and not worth:
        return "The posting time makes no difference: the posts that it learned from have days without hours."
    if info.frozen:
        return (
            f"The posting time makes no difference: it was worth {worth['auc']:.4f} of ROC-AUC on {worth['rows']:,.0f} later"
            " posts, so the model was trained without it."
        )
    if worth:
        return f"The posting time was worth {worth['auc']:.4f} of ROC-AUC on {worth['rows']:,.0f} later posts, and counts."
    return "The posting time counts."


def about_teacher(info: ModelInfo) -> str:
    """What the network learned from."""
    if info.teacher is None:
        return "It learned from the posts alone."
    if info.teacher.encoder_sha256 is None:
        return "It learned from the posts, and from a linear model of them (ridge regression)."
    return (
        "It learned from the posts, and from a linear model of them (ridge regression) that knows the headlines' sentence"
        f" embeddings by an encoder whose weights have the SHA-256 {info.teacher.encoder_sha256}."
    )


def write(directory: Path, evaluation: Evaluation, info: ModelInfo, comparison: Comparison | None = None) -> None:
    """Write MODEL_CARD.md into a version's directory."""
    training, scored = info.parts["training"], info.parts[evaluation.part]
    made_up = "**Made-up data: it says nothing about real headlines.**\n\n" if info.synthetic else ""
    known = [*sentences(evaluation), UPPER_BOUND, *([comparison.describe()] if comparison else [])]
    items = "\n".join(f"* {sentence}" for sentence in known)
    text = f"""# Will this headline be popular?

{made_up}**Popular** is a post with {info.label.describe()}.

Trained on {_day(info.created_at)} on {training.rows:,} posts of {_day(training.first)} to {_day(training.last)}, by
{len(info.outlet_levels):,} accounts; tried on {scored.rows:,} later ones, of {_day(scored.first)} to {_day(scored.last)}.

## How good it is

{lead(evaluation)}

{items}

## What it is for, and what not

To compare headlines before they are posted. Not to judge how true, important or good a story is, nor whoever wrote it:
engagement counts outrage as much as delight. Its numbers hold for accounts and weeks like those that it learned from; train it
anew as news and audiences move on.

## How it was made

The two-input, two-output LSTM of the Keras functional-API guide reads the words, and with them the time and the account.
{about_teacher(info)}
{about_time(info)}
Its numbers are calibrated on the validation part. `report/index.html` shows all figures, and `assets.extra/model.json` has the
settings.
"""
    (directory / NAME).write_text(text, "utf-8", newline="\n")


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _times(estimate: Estimate) -> str:
    interval = (
        "" if estimate.low is None or estimate.high is None else f" ({estimate.low * 100:.0f} to {estimate.high * 100:.0f})"
    )
    return f"{estimate.value * 100:.0f} times in 100{interval}"


def _verdict(difference: Estimate) -> str:
    if difference.low is not None and difference.low > 0:
        return "this model is the better one"
    if difference.high is not None and difference.high < 0:
        return "that method is the better one here"
    return "no clear difference"
