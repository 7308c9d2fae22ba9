"""What goes in and what comes out: headlines, predictions and what is wrong with a headline."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Headline(NamedTuple):
    """A headline as a newsroom would post it."""

    text: str
    posted_at: datetime | None = None  # with its zone; None: now, by the server's clock
    outlet: str = ""  # the account, as the training data named it; empty: none


class Prediction(NamedTuple):
    """How popular one headline will be, as probabilities."""

    main_output: float  # judged by words, time and outlet
    aux_output: float  # judged by the words alone
    word_count: int
    unknown_word_count: int  # of these, how many the model does not know
    outlet_known: bool  # false also if none was named
    model_version: int

    @property
    def best(self) -> float:
        """The better number: `main_output`, or `aux_output` if the model does not know the outlet."""
        return self.main_output if self.outlet_known else self.aux_output


class WordEffect(NamedTuple):
    """What one word does to a headline's score: the output less the output without this word."""

    word: str  # as the model reads it
    known: bool  # to the model; all others are one and the same to it
    main_effect: float
    aux_effect: float
    start: int  # text[start:end] is where it stands in the headline's text; both -1: that cannot be told
    end: int


class Explanation(NamedTuple):
    """What moves the score of one headline, by leaving out one thing at a time; effects do not add up to the score.

    `main_effect`s belong to `prediction.main_output`, `aux_effect`s to `aux_output`: show those of the one that is `best`.
    """

    prediction: Prediction
    words: tuple[WordEffect, ...]  # in order, the first 100
    outlet_effect: float  # main_output less main_output without the outlet
    time_effect: float  # main_output less its mean over the hours of the week; 0 if the model does not use the time


class FieldViolation(NamedTuple):
    """One field that is wrong."""

    field: str  # its path in what the caller passed, such as headlines[3].text; the first headline is headlines[0]
    description: str  # what is wrong and what would be right
