"""What a diffusion generation cost, and what its steps saw."""

from dataclasses import dataclass

from torch import Tensor

from tokenburst.decoders.sparsedrun import SparseStats


@dataclass(frozen=True)
class TraceStep:
    """What one step saw and did, for R positions of each of B sequences."""

    position: Tensor  # [B, R] int64, -1 = none
    masked: Tensor  # [B, R] bool, positions that held a mask
    token: Tensor  # [B, R] int64, proposals
    confidence: Tensor  # [B, R] float32, 0 where no mask was looked at
    committed: Tensor  # [B, R] bool


@dataclass(frozen=True)
class DiffusionStats:
    """What a generation cost."""

    forwards: int  # of the whole batch
    new_tokens: list[int]  # committed in each sequence
    steps: list[list[int]]  # [B][blocks]: forwards that each row needed for each block
    seconds: float
    trace: list[TraceStep] | None = None  # by step, where it was asked for
    sparse: SparseStats | None = None  # of `SparseD`

    @property
    def tokens_per_forward(self) -> float:
        """Mean over the sequences of tokens per forward."""
        return sum(self.new_tokens) / max(1, len(self.new_tokens)) / max(1, self.forwards)
