"""Device values on the host, late enough never to stop the device."""

from collections import deque

import torch
from torch import Tensor


class LateCopy:
    """Host copies of a small device tensor.

    On the CPU a call returns the tensor itself. On a GPU it starts a copy to pinned memory and
    returns the one started `lag` calls before, None at first: the device always has work queued
    while the host waits, and the host is never more than `lag` steps ahead.
    """

    def __init__(self, device: torch.device, lag: int = 2) -> None:
        self.late, self._lag = device.type == "cuda", lag
        self._copies: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __call__(self, value: Tensor) -> Tensor | None:
        if not self.late:
            return value
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host.copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copies.append((host, event))
        if len(self._copies) <= self._lag:
            return None
        host, event = self._copies.popleft()
        event.synchronize()
        return host

    def forget(self) -> None:
        """Drop the copies under way: what they show has changed its meaning."""
        self._copies.clear()
