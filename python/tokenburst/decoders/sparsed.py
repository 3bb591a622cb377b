"""SparseD: dense attention for the first steps, then only what each head was seen to need."""

from dataclasses import dataclass
from typing import Any

import torch

from tokenburst.decoders.sparsedrun import SparsedRun
from tokenburst.decoders.tasks import Task
from tokenburst.decoders.unmasking import Unmasking
from tokenburst.patterns import BLOCKS


@dataclass(frozen=True)
class SparseD:
    """Block-sparse attention by a pattern of each layer and head, taken once and then kept.

    Of T steps, 0 .. E with E = int(T * skip) + 1 attend densely. In step E each block of queries
    keeps the blocks of keys that it attends to most, int(n * keep) + 1 of all and as many of the
    generated part (`ops.attn_select_blocks`); later steps attend to those alone. Steps are counted
    over all blocks of a generation, and T is the most that the unmasking policy may take: tell
    `steps` where it usually takes fewer. A row's pattern depends on no other row.

    Beside a cache, step E computes every position, whatever the cache would have; a later step uses
    the pattern's rows of the positions that it computes, over all keys, kept or new.

    Args:
        keep: share of the blocks that a row of the pattern keeps, 0 to 1.
        skip: share of the steps that come before the pattern, 0 to 1.
        block: 32, 64 or 128 tokens.
        pattern_scale: of the scores that the pattern is taken from: "attention" = the model's own,
            "llada" = 1 / sqrt(query heads) as in the code published for LLaDA, or a number.
        steps: T, None = the most that the policy may take.

    Raises:
        ValueError: a share outside 0..1, another block or scale, steps below 1.

    Source: Wang et al., SparseD, arXiv 2509.24014.
    """

    keep: float = 0.3
    skip: float = 0.2
    block: int = 128
    pattern_scale: str | float = "attention"
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "skip"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"SparseD: {name}: expected a share from 0 to 1, got {share}")
        if self.block not in BLOCKS:
            raise ValueError(f"SparseD: block: expected one of {BLOCKS}, got {self.block}")
        scale = self.pattern_scale
        if not (scale in ("attention", "llada") if isinstance(scale, str) else 0 < scale < 1e30):
            raise ValueError(
                f"SparseD: pattern_scale: expected attention, llada or a number > 0, got {scale!r}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"SparseD: steps: expected None or at least 1, got {self.steps}")

    def last_dense(self, steps: int) -> int:
        """E, the step of T that the pattern is taken in."""
        return int(steps * self.skip) + 1

    def begin(self, task: Task, unmasking: Unmasking) -> SparsedRun:
        """The attention of one generation."""
        masked = task.x == task.mask_id
        first = masked.int().argmax(1).where(masked.any(1), task.lengths).to(torch.int32)
        count = (task.places >= 0).sum(2)
        blocks, widest = (count > 0).sum(1).tolist(), count.amax(1).tolist()
        steps = [b * unmasking.most_steps(m, b) for b, m in zip(blocks, widest, strict=True) if b]
        longest = max(steps, default=1)  # a row without masks has no step: it goes along
        turn = [self.last_dense(self.steps or (steps.pop(0) if b else longest)) for b in blocks]
        return SparsedRun(
            first, turn, block=self.block, keep=self.keep, pattern_scale=self.pattern_scale
        )


def check_attention(attention: SparseD | None, config: Any, causal: bool, cuts: bool) -> None:
    """ValueError unless a model of this configuration can be decoded with `attention`."""
    if attention is None:
        return
    refused = {
        "a block-causal model: later blocks have no queries yet when the pattern is taken": causal,
        "sequences that are cut": cuts,
        "sliding windows": getattr(config, "sliding_window", None) is not None,
    }
    for what, present in refused.items():
        if present:
            raise ValueError(f"DiffusionDecoder: attention: {attention} does not go with {what}")
