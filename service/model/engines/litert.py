"""LiteRT: what export compiled for CPUs, without TensorFlow in the process."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from service.errors import VersionError
from service.model import throttle
from service.model.artifact import CPU_MODEL, Artifact
from service.model.engines import probe
from service.model.engines.layout import Cost, Floats, Ids
from service.model.preprocessing import AUX_FEATURES, SEQUENCE_LENGTH

# One more call costs as much as 20 rows of its width: picking the rows out, the first row's share of each step, and LiteRT's
# laying out its memory again if the rows are not as many as the time before.
_COST = Cost(call=0, call_per_word=20, largest_call=128)


# Bytes from which glibc gives a block pages of its own, which the system has back once the block is free. By itself glibc
# raises this to the largest block that was freed, and takes the next version from its heap, under what is in use there: a
# server grew from 175 MB to 270 in ten swaps, and with this to 210. From 1 MB on it were 166, but calls took 3 % longer.
_OWN_PAGES = 4 << 20
_M_MMAP_THRESHOLD = -3  # in malloc.h


class Engine:
    """Runs cpu.tflite."""

    name = "litert"
    inline = True

    def __init__(self) -> None:
        with suppress(OSError, AttributeError):  # another C library, which need not have this
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)

    def gpu_memory(self) -> None:
        """None: it runs on the CPU."""

    def load(self, artifact: Artifact) -> Model:
        """Open the version's cpu.tflite; raises VersionError if LiteRT cannot run it."""
        try:
            model = Model(artifact.files[CPU_MODEL])
            throttle.pause()
            probe(model, len(artifact.vocabulary))
        except (ValueError, RuntimeError) as error:
            raise VersionError(f"{CPU_MODEL}: LiteRT cannot run it: {error}") from error
        return model


class Model:
    """One interpreter, with a runner for each length that the file has."""

    def __init__(self, content: bytes) -> None:
        # Given a path, LiteRT would map the file into memory and die with it if it is truncated.
        interpreter = Interpreter(model_content=content, num_threads=1)
        names = [re.fullmatch("words_([1-9][0-9]*)", name) for name in interpreter.get_signature_list()]
        widths = sorted(int(name[1]) for name in names if name)
        if not widths or widths[-1] < SEQUENCE_LENGTH:
            raise ValueError(f"it has no signature words_{SEQUENCE_LENGTH}")
        self._runners = {width: interpreter.get_signature_runner(f"words_{width}") for width in widths}
        # The width for each length of a row, from 0.
        self._widths = np.array(widths, np.int32)[np.searchsorted(widths, np.arange(SEQUENCE_LENGTH + 1))]

    def predict(self, ids: Ids, lengths: Ids, aux: Floats) -> Floats:
        """See service.model.engines.Model."""
        answer = np.empty((len(lengths), 2), np.float32)
        if not len(answer):
            return answer
        for rows, main_input, aux_input in _COST.calls(ids, lengths, self._widths[lengths], aux):
            outputs = self._runners[main_input.shape[1]](main_input=main_input, aux_input=aux_input)
            answer[rows, :1] = outputs["main_output"]
            answer[rows, 1:] = outputs["aux_output"]
        return answer

    def warm(self) -> None:
        """Let each runner pack its weights and take the memory of its largest call, and leave it ready for one row."""
        for width in self._runners:
            for rows in (_COST.largest_call, 1):
                self.predict(
                    np.ones(rows * width, np.int32),
                    np.full(rows, width, np.int32),
                    np.zeros((rows, len(AUX_FEATURES)), np.float32),
                )
                throttle.pause()
