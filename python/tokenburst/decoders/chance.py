"""What random choices of a generation depend on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst.decoders.reading import Sampling


@dataclass(frozen=True)
class Chance:
    """What random choices depend on: each for the batch or [B], for its rows."""

    temperature: float | Tensor
    seed: int | Tensor
    sequence_ids: Tensor | None  # [B] int; None = 0 .. B - 1
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    guidance: Tensor | None = None  # [B] float32 on the model's device

    def __post_init__(self) -> None:
        heat = self.temperature
        if not isinstance(heat, Tensor) and not 0 <= heat < math.inf:
            raise ValueError(f"generate: temperature: expected a number >= 0, got {heat}")
        if not isinstance(self.seed, Tensor) and not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"generate: seed: expected a 64-bit integer, got {self.seed}")

    def heat(self, row: Tensor) -> Tensor | None:
        """[B] float32 temperatures of the rows 0 .. B - 1, None where all are 0."""
        if not isinstance(self.temperature, Tensor):
            return (
                row.new_full(row.shape, self.temperature, dtype=torch.float32)
                if self.temperature > 0
                else None
            )
        heat = self.temperature.to(row.device, torch.float32)
        if heat.shape != row.shape or not bool(((heat >= 0) & heat.isfinite()).all()):
            raise ValueError(
                f"generate: temperature: expected a number >= 0 or {len(row)} of them, "
                f"got {self.temperature.tolist()}"
            )
        return heat

    def seeds(self, row: Tensor) -> Tensor:
        """[B] int64 seeds of the rows 0 .. B - 1."""
        if not isinstance(self.seed, Tensor):
            return torch.full_like(row, self.seed)
        return _integers("seed", self.seed, row)

    def names(self, row: Tensor) -> Tensor:
        """[B] int64 names of the rows 0 .. B - 1."""
        if self.sequence_ids is None:
            return row
        return _integers("sequence_ids", self.sequence_ids, row)


def _integers(name: str, ids: Tensor, row: Tensor) -> Tensor:
    if ids.shape != row.shape or ids.is_floating_point():
        raise ValueError(
            f"generate: {name}: expected integers of shape {tuple(row.shape)}, "
            f"got {ids.dtype} {tuple(ids.shape)}"
        )
    return ids.to(row.device, torch.int64)
