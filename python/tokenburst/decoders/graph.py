"""A decoding step as one CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor


class Captured:
    """Calls `step`, on a GPU as a CUDA graph.

    `step` takes nothing and changes tensors in place; it must read nothing back to the host and
    have the same shapes in every call. The first two calls on a GPU run it as it is, on a stream of
    their own as capture asks for, so that every library has allocated what it needs; the third
    captures it. On other devices it is just called.
    """

    def __init__(self, step: Callable[[], Tensor], device: torch.device) -> None:
        self._step, self._device = step, device
        self.reset()

    def reset(self) -> None:
        """The shapes have changed: capture again."""
        self._warm_ups = 2
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def __call__(self) -> Tensor:
        """What `step` returned; the caller's own."""
        if self._device.type != "cuda":
            return self._step()
        if self._warm_ups > 0:
            self._warm_ups -= 1
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                result = self._step()
            current.wait_stream(stream)
            result.record_stream(current)
            return result
        if self._captured is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = self._step()  # recorded, not run
            self._captured = graph, result
        graph, result = self._captured
        graph.replay()
        return result.clone()
