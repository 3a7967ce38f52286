# SPDX-License-Identifier: AGPL-3.0-or-later
"""A function of one tensor, run as a CUDA graph from the second call of a shape on: one launch instead of one for each of its kernels.

The graph has the same kernels on the same numbers. The first call of a shape runs as it is: a shape that comes once costs nothing, and
libraries choose their kernels meanwhile. The second captures aside, in about the time of a few calls. Graphs share one pool of memory, since only
one of them runs at a time and its answer is taken before the next; the least recently used makes room when there are too many.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from yolov12.engine.capture import capturing, first_cause
from yolov12.log import say, say_once
from yolov12.memory.failure import drop_when_short, is_out_of_memory, one_line

MOST_GRAPHS = 16
"""Of one function. A folder of photographs in both orientations and a few formats has fewer shapes (multiples of 32 px)."""
SEEN_BEFORE = 1
"""Calls of a shape before it is captured; twice as many each time that its graph had to make room for another."""
WARM_UPS = 2
"""Runs on the side stream before capturing: what a library sets up at its first use on a stream is no part of a graph (torch's notes on them)."""

Reads = Callable[[], Sequence[Tensor]]


class Replayed(Protocol):
    """What capturing gives."""

    held: Tensor
    """What it reads; who has written it there himself hands in just this."""

    def replay(self, x: Tensor) -> Tensor:
        """The function's answer for `x`, in memory that the next replay of any graph of the pool may overwrite."""


class Pool(Protocol):
    """Where graphs are captured and keep their memory."""

    def capture(self, function: Callable[[Tensor], Tensor], x: Tensor, reads: Reads) -> Replayed:
        """`function` as it runs on tensors like `x`; raises whatever keeps it from being captured.

        Args:
            reads: tells, once the function has run, which tensors it reads besides; they live as long as the graph.
        """

    def release(self) -> None:
        """Give memory back to the device, once no graph is left."""


@dataclass
class Captured:
    """A graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    held: Tensor
    answer: Tensor
    reads: Sequence[Tensor]
    """The network's weights and its head's anchors. Its Python may let go of them; the graph would read what lies there then."""

    def replay(self, x: Tensor) -> Tensor:
        if x is not self.held:
            self.held.copy_(x)
        self.graph.replay()
        return self.answer


class GpuPool:
    """The pool of one GPU: a stream to capture on, and memory that its graphs share."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None
        self._handle: Any = None

    def capture(self, function: Callable[[Tensor], Tensor], x: Tensor, reads: Reads) -> Replayed:
        with torch.cuda.device(self.device):
            if self._handle is None:
                self._stream, self._handle = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            held = torch.empty_like(x).copy_(x)
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    function(held)
            here.wait_stream(self._stream)
            with capturing(graph, self._handle, self._stream):
                answer = function(held)
        return Captured(graph, held, answer, reads())

    def release(self) -> None:
        # A handle whose graphs are gone can not be used again.
        self._handle = None
        torch.cuda.empty_cache()


class Replays:
    """Calls `function(x, *options)`, by a graph where there is one.

    Args:
        name: of the function, as it is said.
        pool: where graphs are captured; several functions may share it.
        reads: tells which tensors the function reads besides.
    """

    def __init__(self, name: str, function: Callable[..., Tensor], pool: Pool, reads: Reads = list) -> None:
        self.name, self.function, self.pool, self.reads = name, function, pool, reads
        self.off: str | None = None
        """Why nothing is captured any more."""
        self._graphs: OrderedDict[Hashable, Replayed] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._needed: dict[Hashable, int] = {}
        drop_when_short(self)

    def __call__(self, x: Tensor, *options: Hashable) -> Tensor:
        """What the function answers; to be used or copied before the next call of any function of the pool.

        Args:
            x: its only tensor. Graphs are told apart by shape, strides and dtype.
            options: what else its kernels depend on.
        """
        if self.off is not None:
            return self.function(x, *options)
        kind = (x.shape, x.stride(), x.dtype, options)
        captured = self._graphs.get(kind)
        if captured is None and self._seen[kind] >= self._needed.get(kind, SEEN_BEFORE):
            captured = self._capture(kind, x, options)
        if captured is None:
            self._seen[kind] += 1
            return self.function(x, *options)
        self._graphs.move_to_end(kind)
        return captured.replay(x)

    def input_like(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """What the graph that ran last reads, if it is contiguous, of this shape and type: what is written there needs no copy. Else None.

        Only in inference mode, which predictions are made in: who prepares a tensor elsewhere may want to keep it.
        """
        last = next(reversed(self._graphs.values()), None)
        if last is None or not torch.is_inference_mode_enabled():
            return None
        held = last.held
        return held if held.shape == tuple(shape) and held.dtype == dtype and held.is_contiguous() else None

    def __len__(self) -> int:
        """Graphs that there are."""
        return len(self._graphs)

    def drop(self) -> None:
        """Forget all graphs; their memory goes back to the device, but for what another function's graphs still use."""
        if self._graphs:
            self._graphs.clear()
            self._seen.clear()
            self.pool.release()

    def _capture(self, kind: Hashable, x: Tensor, options: Sequence[Hashable]) -> Replayed | None:
        while len(self._graphs) >= MOST_GRAPHS:
            oldest, _ = self._graphs.popitem(last=False)
            self._needed[oldest] = 2 * self._needed.get(oldest, SEEN_BEFORE)
            self._seen[oldest] = 0
        # By name: a graph that knew this object would keep it and be kept by it.
        function = self.function
        try:
            captured = self.pool.capture(lambda held: function(held, *options), x, self.reads)
        except Exception as error:  # noqa: BLE001  # whatever can not be captured, the answer comes without
            cause = first_cause(error)
            self._turn_off("out of memory" if is_out_of_memory(cause) else one_line(cause)[:200])
            return None
        self._graphs[kind] = captured
        say_once(f"graph of {self.name}", f"{self.name}: runs as a CUDA graph where a shape comes again")
        return captured

    def _turn_off(self, reason: str) -> None:
        self.off = reason
        self._graphs.clear()
        self.pool.release()
        say(f"{self.name}: no CUDA graph: {reason}")


def foreign_layer(module: nn.Module) -> str | None:
    """Why the Python of a network may do something else each time, which a graph would not; None if all of its layers are ultralytics' or torch's."""
    foreign = {type(m).__module__ for m in module.modules()}
    foreign = {name for name in foreign if not name.startswith(("ultralytics.", "torch."))}
    return f"the model has layers of {min(foreign)}, whose Python may do something else each time" if foreign else None
