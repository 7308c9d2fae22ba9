"""Which words, which outlet and which time move a headline's score: leave one out, compute the rest again.

question = Explainable(version, Headline("City votes on new park", 1_464_000_000.0, "gazette"))
question.explain(version.compute(question.rows())).words[0].main_effect

The method is Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016. A row of numbers is
computed for each thing that is left out; an effect is the output of the headline less the output of that row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.model.preprocessing import RULES, SEQUENCE_LENGTH, UNKNOWN, Headline, positions, time_features
from service.model.version import Outputs, Prediction, Row, Version

_HOURS = tuple(time_features(3600.0 * hour) for hour in range(7 * 24))  # of the week


class WordEffect(NamedTuple):
    """What one word does to the score."""

    word: str  # as the model reads it
    known: bool
    main_effect: float
    aux_effect: float
    start: int  # in code points of the text as it was sent; -1: cannot be told
    end: int  # likewise


class Explanation(NamedTuple):
    """What moves the score of one headline."""

    prediction: Prediction
    words: list[WordEffect]  # in order, the first SEQUENCE_LENGTH
    outlet_effect: float  # main_output less main_output without the outlet
    time_effect: float  # main_output less its mean over the hours of the week; 0 if the version does not use the time


class Explainable:
    """A headline for one version to explain; `len` is the number of its rows."""

    def __init__(self, version: Version, headline: Headline) -> None:
        self._encoded = version.preprocessor.encode([headline])
        self._text = headline.text
        self._rules = RULES[version.info.preprocessing]
        self._hours = () if version.info.frozen else _HOURS
        self._words = min(self._encoded.word_counts[0], SEQUENCE_LENGTH)

    def __len__(self) -> int:
        return 1 + self._words + 1 + len(self._hours)

    def rows(self) -> list[Row]:
        """The headline, it without each of its words, without its outlet, and at each hour of the week.

        The words behind one that is left out move up; what is behind the first SEQUENCE_LENGTH is not read all the same.
        """
        ids = tuple(self._encoded.ids.tolist())
        *time, outlet = self._encoded.aux[0].tolist()
        aux = (*time, outlet)
        return [
            Row(ids, aux),
            *(Row(ids[:i] + ids[i + 1 :] or (UNKNOWN,), aux) for i in range(self._words)),
            Row(ids, (*time, 0.0)),
            *(Row(ids, (*hour, outlet)) for hour in self._hours),
        ]

    def explain(self, outputs: Sequence[Outputs]) -> Explanation:
        """The explanation, from the outputs for `rows`."""
        itself, without_outlet = outputs[0], outputs[1 + self._words]
        without_words, hours = outputs[1 : 1 + self._words], outputs[2 + self._words :]
        words = self._rules.words(self._text)[: self._words]
        places = positions.find(self._rules, self._text, words)
        known = [id_ != UNKNOWN for id_ in self._encoded.ids.tolist()[: self._words]]
        effects = [
            WordEffect(
                word,
                is_known,
                itself.main_output - without.main_output,
                itself.aux_output - without.aux_output,
                *place,
            )
            for word, is_known, without, place in zip(words, known, without_words, places, strict=True)
        ]
        mean = math.fsum(hour.main_output for hour in hours) / len(hours) if hours else itself.main_output
        return Explanation(
            Prediction(
                *itself, self._encoded.word_counts[0], self._encoded.unknown_word_counts[0], self._encoded.outlets_known[0]
            ),
            effects,
            itself.main_output - without_outlet.main_output,
            itself.main_output - mean,
        )
