"""An iteration is captured in a CUDA graph once it has run eagerly, and replayed from then on."""

import gc
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

EAGER_FIRST = 3  # SGD's first fused step is another; cuDNN and Triton choose and compile


class Graph(Protocol):
    """What `Replayed` needs of a CUDA graph; a test drives it with one that only counts."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record what the function launches; none of it is executed."""

    def replay(self) -> None:
        """Launch what was recorded."""

    def release(self) -> None:
        """Give its memory back."""


class CudaGraph:
    """A graph of the current stream, which must not be the default one."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], None]) -> None:
        _fill_pinned_cache()
        gc.collect()  # another run's graphs and tensors must not be destroyed meanwhile
        gc.disable()
        try:
            # Other threads (of a loader that pins memory, say) may call CUDA meanwhile.
            stream = torch.cuda.current_stream()
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                function()
        finally:
            gc.enable()

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        self._graph.reset()


def _fill_pinned_cache() -> None:
    """Let what a step copies to the device find pinned memory without a call to CUDA.

    A capture forbids to ask for some, and to ask whether earlier copies are over, which a request
    outside it does.
    """
    torch.cuda.synchronize()
    kept = [
        torch.empty(2**k, dtype=torch.uint8, pin_memory=True) for k in range(4, 22) for _ in "four"
    ]
    del kept


class Replayed:
    """A function on static buffers: the first calls run it, one captures it, the others replay it.

    What the host does in it happens when it runs and when it is captured, not when it is replayed:
    `replays` counts those calls. Whatever it has read on the host, as a learning rate, is fixed in
    the graph: `key` is all of that, and a call with another one captures anew.
    """

    def __init__(
        self, function: Callable[[], None], new_graph: Callable[[], Graph] | None = None
    ) -> None:
        self._function = function
        self._new_graph = new_graph or CudaGraph
        self._eager = 0
        self._graph: Graph | None = None
        self._key: Hashable = None
        self.replays = 0

    def __call__(self, key: Hashable) -> None:
        """Do what the function does."""
        if self._eager < EAGER_FIRST:
            self._eager += 1
            self._function()
            return
        if self._graph is not None and key == self._key:
            self._graph.replay()
            self.replays += 1
            return
        self.drop()
        graph = self._new_graph()
        graph.capture(self._function)
        self._graph, self._key = graph, key
        graph.replay()

    def drop(self) -> None:
        """Forget the graph; the next call captures another."""
        if self._graph is not None:
            self._graph.release()
            self._graph = None
