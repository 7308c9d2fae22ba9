"""How a batch of ragged rows becomes a few rectangular calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


class Call(NamedTuple):
    """Rows to compute together."""

    rows: npt.NDArray[np.intp] | slice  # which of the batch
    main_input: Ids  # [rows, width], padding before the words
    aux_input: Floats  # [rows, 5]


@dataclass(frozen=True)
class Cost:
    """What one more call costs, in words computed: `call + call_per_word * width`. Measured, by benchmarks/engine.py."""

    call: int
    call_per_word: int
    largest_call: int  # rows a call at most: beyond it a row gets no cheaper, and memory grows

    def calls(self, ids: Ids, lengths: Ids, widths: Ids, aux: Floats) -> Iterator[Call]:
        """The calls that together compute a batch of one row or more.

        `ids` int32 [sum of lengths], `lengths` int32 [n]; `widths` int32 [n] are the lengths to which the engine can compute
        each row, `aux` float32 [n, 5]. Long rows get a call of their own if the words that the others are spared
        are worth more than a call.
        """
        if len(lengths) == 1:
            main_input = np.zeros((1, widths[0]), np.int32)
            main_input[0, widths[0] - len(ids) :] = ids
            yield Call(slice(None), main_input, aux)
            return
        longest, shortest = int(widths.max()), int(widths.min())
        main_input = np.zeros((len(lengths), longest), np.int32)
        main_input[np.arange(longest) >= (longest - lengths)[:, None]] = ids
        if len(lengths) <= self.largest_call and self._spares(len(lengths) - 1, longest, shortest) <= 0:
            yield Call(slice(None), main_input, aux)  # most batches: too few rows, or too much alike, for any split to pay
            return
        order = np.argsort(widths, kind="stable")
        width = widths[order]
        end = len(order)
        while end:
            shorter = width[: end - 1]
            spared = self._spares(np.arange(1, end), width[end - 1], shorter)
            start = int(spared.argmax()) + 1 if spared.size and spared.max() > 0 else 0
            for first in range(start, end, self.largest_call):
                last = min(first + self.largest_call, end)
                rows = order[first:last] if last - first < len(order) else slice(None)
                yield Call(rows, main_input[rows, longest - width[last - 1] :], aux[rows])
            end = start

    def _spares(self, rows: Any, longest: Any, width: Any) -> Any:  # noqa: ANN401  (numbers, or arrays of them)
        """How many words are spared if a call of their own computes `rows` to `width` instead of `longest`."""
        return rows * (longest - width) - (self.call + self.call_per_word * width)
