"""What decides a fit's result, beside its data. Importable without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from service.errors import UsageError
from service.posts.flags import Format

MIN_AGE = 2 * 86_400.0  # seconds; by then nearly all reactions are in
MAX_BAD_SHARE = 0.01

Merge = Literal["concatenate", "add", "multiply", "average", "maximum", "dot"]
MERGES: tuple[str, ...] = get_args(Merge)
PopularAbove = Literal["auto", "outlet", "median", "story"]
POPULAR_ABOVE: tuple[str, ...] = get_args(PopularAbove)


@dataclass(frozen=True, kw_only=True)
class Reading(Format):
    """How files of posts are read. `headlines fit --help` says more of each."""

    engagement: tuple[str, ...] = ()  # the counts to add; none: retweets and likes, as far as the files have them
    empty_counts: Literal["bad", "zero"] = "bad"
    bad_counts: Literal["end", "skip"] = "end"
    keep_retweets: bool = False
    keep_replies: bool = False
    since: float | None = None  # seconds since 1970-01-01 UTC: earlier posts are left out
    min_age: float = MIN_AGE  # seconds: younger posts are left out
    collected_at: float | None = None  # seconds since 1970-01-01 UTC, when the counts were read; None: the newest post's time
    max_bad_share: float = MAX_BAD_SHARE  # of rows that may be bad


AS_GIVEN = Reading()


@dataclass(frozen=True)
class Settings:
    """Each with its unit and the reason to change it, which is also its flag's help.

    Raises UsageError if a value makes no sense.
    """

    popular_above: PopularAbove = field(
        default="auto",
        metadata={
            "help": "what a popular post has more engagement than: half of the same outlet's posts of the 28 days before it,"
            " half of all posts of the training part, or the mean of its story's other headlines (column story); auto is outlet"
            " if the posts have outlets, else median",
            "choices": POPULAR_ABOVE,
        },
    )
    merge: Merge = field(
        default="concatenate",
        metadata={"choices": MERGES, "help": "how the words meet the auxiliary features; all but the first are for comparison"},
    )
    seed: int = field(
        default=0, metadata={"help": "of the first weights, the order and the dropout; the same seed gives the same model"}
    )
    epochs: int = field(default=50, metadata={"help": "passes over the data at most; a fit stops long before"})
    patience: int = field(default=3, metadata={"help": "epochs without a lower validation loss of main_output until it stops"})
    batch_size: int = field(
        default=128, metadata={"help": "headlines a step; larger ones take fewer steps and learn less from each headline"}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "RMSprop's; lower it if the validation loss is best after the first epoch"}
    )
    aux_loss_weight: float = field(
        default=0.2, metadata={"help": "aux_output's loss beside main_output's: trains the words without leading the fit"}
    )
    word_dropout: float = field(
        default=0.3,
        metadata={"help": "share of the words hidden from all headlines of a step; more if single words are learned by heart"},
    )
    embedding_dropout: float = field(
        default=0.5, metadata={"help": "share of each word's embedding hidden a step; more if words are learned by heart"}
    )
    state_dropout: float = field(
        default=0.3, metadata={"help": "share of the LSTM's state hidden a step; more if words are learned by heart"}
    )
    embedding_decay: float = field(
        default=2e-4, metadata={"help": "L2 penalty on the embeddings of a batch's words; more keeps rare words neutral"}
    )
    teacher: str = field(
        default="auto",
        metadata={
            "help": "what the network learns from beside the labels: a ridge regression of how well posts did, with the"
            " sentence encoder in this directory, or auto: with the encoder that is installed, if one is; none: labels alone",
            "metavar": "auto|none|DIR",
        },
    )
    teacher_share: float = field(
        default=0.7,
        metadata={"help": "of what the network learns; the rest is how well a post did. Without a teacher it has no effect"},
    )
    vector_scale: float = field(
        default=2.0,
        metadata={"help": "of the encoder's vectors of words, with which their embeddings begin; 0: they begin at random"},
    )
    averaging: float = field(
        default=1.0,
        metadata={
            "help": "span, in epochs, of the running average of the weights, which is the model; 0: the weights themselves"
        },
    )

    def __post_init__(self) -> None:
        if self.merge not in MERGES:
            raise UsageError(f"merge is {self.merge!r}; it must be one of {', '.join(MERGES)}")
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.popular_above not in POPULAR_ABOVE:
            raise UsageError(f"popular_above is {self.popular_above!r}; it must be one of {', '.join(POPULAR_ABOVE)}")
        if not self.teacher:
            raise UsageError("teacher is empty; it must be auto, none or a directory that holds a sentence encoder")
        if not 0 <= self.teacher_share <= 1:
            raise UsageError(f"teacher_share is {self.teacher_share}; it must be from 0 to 1")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed is {self.seed}; it must be from 0 to 2147483647")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning_rate is {self.learning_rate}; it must be above 0 and below 1")
        for name in ("word_dropout", "embedding_dropout", "state_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("aux_loss_weight", "embedding_decay", "averaging", "vector_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a number from 0 on")
