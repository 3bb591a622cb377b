"""State at fixed addresses: what a step leaves behind lies where the step looked for it.

A CUDA graph reads and writes the memory that it was captured with, so a step that is to be replayed
has to end in the tensors it began with.
"""

from torch import Tensor


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
