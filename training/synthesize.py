"""A made-up data set whose best possible AUC is known, to try the whole line with and to test that it learns.

Engagement is log-normal around a sum of effects: of the outlet, of each word, of the hour. Words follow Zipf's law with the
offset that Mandelbrot gave it; a tenth of them come up only from some later moment on, as names do in the news. Nothing in
it is real: outlets and words are invented, and the column `synthetic` says so in every row.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from service.errors import UsageError
from training import dataset, features
from training.publish import replace_file

POSTS = 20_000
LEAST_POSTS = 1_000  # of fewer, too few would be left to fit and judge a model

_OUTLETS = tuple(f"madeup{name}" for name in ("bugle", "courier", "echo", "gazette", "herald", "mirror", "planet", "tribune"))
_BEGIN = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_DAYS = 90
_WORDS = 3_000
_ZIPF_OFFSET = 2.7
_SHORT = 30  # the commonest words have one syllable and are always there
_COMMON = 5  # the very commonest tell nothing, as "the" and "of"
_LATE = 10  # every tenth of the others is first seen later
_TELLING = 60  # the words up to this rank carry an effect; rarer ones could not be learnt from 20,000 posts
_SHORTEST, _LONGEST = 5, 15  # words a headline

# Effects on log engagement: standard deviations, but for the hour, whose effect is this much between evening and morning.
_OUTLET_EFFECT = 0.7
_WORD_EFFECT = 0.5
_HOUR_EFFECT = 0.8
_NOISE = 0.8
_TYPICAL = 6.0  # log of a typical post's engagement
_RETWEETED = 0.2  # share of the engagement that is retweets

_log = logging.getLogger(__name__)


def synthesize(out: Path, posts: int = POSTS, seed: int = 0) -> float:
    """Write a made-up data set as CSV, gzipped if its name ends in .gz, whole or not at all.

    Returns the AUC that the true probabilities reach on the latest tenth, the rows on which a fit is evaluated.
    Raises UsageError if the file cannot be written or the number of posts is too small.
    """
    if not out.name.endswith((".csv", ".csv.gz")):
        raise UsageError(f"--out {out}: the name must end in .csv or .csv.gz")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: cannot be written: there is no directory {out.parent}")
    if posts < LEAST_POSTS:
        raise UsageError(f"--posts {posts}: must be at least {LEAST_POSTS}")
    random = np.random.default_rng(seed)

    moment = np.sort(random.random(posts))  # share of the period
    posted_at = np.floor(_BEGIN + moment * _DAYS * 86_400)
    outlet = random.integers(len(_OUTLETS), size=posts)
    lengths = random.integers(_SHORTEST, _LONGEST + 1, size=posts)
    row = np.repeat(np.arange(posts), lengths)
    word = _draw_words(random, moment[row])

    word_effects = np.where(np.arange(_WORDS) < _TELLING, random.normal(0, _WORD_EFFECT, _WORDS), 0)
    word_effects[:_COMMON] = 0
    outlet_effects = _OUTLET_EFFECT * np.linspace(-1.5, 1.5, len(_OUTLETS))
    hour = (posted_at % 86_400) / 3_600
    expected = (
        outlet_effects[outlet]
        + np.bincount(row, word_effects[word], posts)
        + _HOUR_EFFECT / 2 * np.cos(2 * np.pi * (hour - 19) / 24)
    )
    engagement = np.floor(np.exp(_TYPICAL + expected + random.normal(0, _NOISE, posts))).astype(np.int64)
    retweets = random.binomial(engagement, _RETWEETED)

    spelling = np.array(_spell_words(random))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["headline", "posted_at", "outlet", "retweets", "likes", "synthetic"])
    for i, headline in enumerate(np.split(spelling[word], np.cumsum(lengths)[:-1])):
        writer.writerow(
            [
                " ".join(headline.tolist()).capitalize(),
                datetime.fromtimestamp(posted_at[i], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                _OUTLETS[outlet[i]],
                retweets[i],
                engagement[i] - retweets[i],
                "true",
            ]
        )
    _write(out, text.getvalue().encode())

    split = features.build(dataset.read([out]))
    _, begin, end = split.ends
    latest = split.posts.records[begin:end]
    # A post is compared with its own outlet's, so what the outlet adds to all of them tells nothing.
    auc = float(roc_auc_score(split.evaluation.labels, (expected - outlet_effects[outlet])[latest]))
    _log.info(
        "%d made-up posts written to %s; the true probabilities reach an AUC of %.4f on the latest tenth", posts, out, auc
    )
    return auc


def _write(out: Path, data: bytes) -> None:
    try:
        replace_file(out, gzip.compress(data, mtime=0) if out.name.endswith(".gz") else data)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error


def _draw_words(random: np.random.Generator, moment: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """A word's rank for each place, where `moment` is the share of the period at which it is written."""
    chances = 1 / (np.arange(_WORDS) + _ZIPF_OFFSET)
    first_seen = np.zeros(_WORDS)
    late = np.arange(_SHORT, _WORDS, _LATE)
    first_seen[late] = random.random(len(late))
    word = random.choice(_WORDS, len(moment), p=chances / chances.sum())
    # The word before a late one is never late, and nearly as common.
    return np.where(first_seen[word] > moment, word - 1, word)


def _spell_words(random: np.random.Generator) -> list[str]:
    """Words to pronounce, all different; the commonest are short."""
    consonants, vowels, ends = list("bcdfghjklmnprstvwz"), list("aeiou"), ["", "n", "r", "s"]
    words: dict[str, None] = {}
    while len(words) < _WORDS:
        syllables = 1 if len(words) < _SHORT else 2 + len(words) % 3
        pairs = zip(random.choice(consonants, syllables), random.choice(vowels, syllables), strict=True)
        words["".join(a + b for a, b in pairs) + random.choice(ends)] = None
    return list(words)
