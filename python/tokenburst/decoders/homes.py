"""State at fixed addresses: what a step leaves behind lies where the step looked for it.

A CUDA graph reads and writes the memory that it was captured with, so a step that is to be replayed
has to end in the tensors it began with.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def nested(process: object) -> Iterator[object]:
    """A policy's process, and those that work inside it."""
    while process is not None:
        yield process
        process = getattr(process, "process", None)


class Homes:
    """The tensors that some objects hold now, as their attributes."""

    def __init__(self, *owners: object) -> None:
        self._homes = [
            (vars(owner), name, value)
            for owner in owners
            for name, value in getattr(owner, "__dict__", {}).items()
            if isinstance(value, Tensor)
        ]

    def settle(self) -> None:
        """Copy what was replaced since back to where it was; the shapes are the same."""
        moved = [(held, name, home) for held, name, home in self._homes if held[name] is not home]
        fresh = [held[name].clone() for held, name, _ in moved]  # some may be views of others
        for (held, name, home), value in zip(moved, fresh, strict=True):
            home.copy_(value)
            held[name] = home


class Memory:
    """What a process remembers of each row, for rows that sit a step out."""

    def __init__(self, process: object) -> None:
        self._owners = [vars(owner) for owner in nested(process)]

    def note(self) -> None:
        """A step begins."""
        self._noted = [
            (held, name, value)
            for held in self._owners
            for name, value in held.items()
            if isinstance(value, Tensor)
        ]

    def keep(self, ran: Tensor) -> None:
        """It is over, and of rows that did not run, [B] bool, nothing has changed."""
        for held, name, before in self._noted:
            now = held[name]
            if now is not before and now.shape[:1] == ran.shape:
                row = ran.view(-1, *[1] * (now.dim() - 1))
                held[name] = torch.where(row, now, before)
