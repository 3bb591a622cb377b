"""The loop of masked diffusion decoding.

One step is one forward of the whole batch, one sweep over the logits of the current blocks and one
selection in place. Each row moves through its blocks at its own pace, and where it stands is kept
on the device: a row's tokens do not depend on its neighbours, and nothing waits for the host.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import LateFlag
from tokenburst.decoders.unmasking import Unmasking
from tokenburst.models.attention import TokenContext, installed

Callback = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class DiffusionStats:
    """What a generation cost."""

    forwards: int  # of the whole batch
    new_tokens: list[int]  # committed in each sequence
    steps: list[list[int]]  # [B][blocks]: forwards that each row needed for each block
    seconds: float

    @property
    def tokens_per_forward(self) -> float:
        """Mean over the sequences of tokens per forward."""
        return sum(self.new_tokens) / max(1, len(self.new_tokens)) / max(1, self.forwards)


@dataclass(frozen=True)
class Task:
    """Packed sequences and where their masks are; tensors on the model's device."""

    x: Tensor  # [B, L] int64, real tokens and masks first, 0 after them; filled in place
    lengths: Tensor  # [B] int32
    places: Tensor  # [B, blocks, W] int64, positions of each block, -1 = none
    n_masks: int  # most masks of any block
    layout: Callable[[Tensor], Tensor]  # x as the caller sees it
    mask_id: int
    eos: Tensor | None  # [E] int64


@dataclass(frozen=True)
class Chance:
    """What random choices depend on, checked."""

    temperature: float
    seed: int
    sequence_ids: Tensor | None  # [B] int; None = 0 .. B - 1

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"generate: temperature: expected a number >= 0, got {self.temperature}"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"generate: seed: expected a 64-bit integer, got {self.seed}")

    def names(self, row: Tensor) -> Tensor:
        """[B] int64 names of the rows 0 .. B - 1."""
        ids = self.sequence_ids
        if ids is None:
            return row
        if ids.shape != row.shape or ids.is_floating_point():
            raise ValueError(
                f"generate: sequence_ids: expected integers of shape {tuple(row.shape)}, "
                f"got {ids.dtype} {tuple(ids.shape)}"
            )
        return ids.to(row.device, torch.int64)


class DiffusionRun:
    """One call of generate or infill: the state of a batch, all of it on the device."""

    def __init__(self, task: Task, unmasking: Unmasking, chance: Chance) -> None:
        self.task, self.unmasking = task, unmasking
        device = task.x.device
        batch, self.n_blocks, width = task.places.shape
        self.limit = self.n_blocks * unmasking.most_steps(task.n_masks, self.n_blocks)
        self.row = torch.arange(batch, device=device)
        self.n_masks = (task.places >= 0).sum(2)
        # Blocks finished so far; a row without masks has nothing to do.
        self.block = torch.where(self.n_masks.sum(1) > 0, 0, self.n_blocks)
        self.step = torch.zeros_like(self.block)  # spent in the current block
        self.spent = torch.zeros_like(self.n_masks)
        self.tokens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.stuck = torch.zeros(batch, dtype=torch.bool, device=device)
        self.forwards = 0

        self.number = torch.arange(batch * width, device=device)
        self.rng = torch.zeros(batch, width, 4, dtype=torch.int64, device=device)
        self.rng[:, :, 0] = chance.seed
        self.rng[:, :, 1] = chance.names(self.row)[:, None]
        self.heat: Tensor | None = None
        if chance.temperature > 0:
            heat = float(chance.temperature)
            self.heat = torch.full((batch * width,), heat, dtype=torch.float32, device=device)
        self.suppress = torch.tensor([task.mask_id], device=device)
        self.context = TokenContext(
            kv_len=torch.zeros_like(task.lengths), n_nodes=task.lengths, causal=False
        )
        self.position_ids = torch.arange(task.x.shape[1], device=device)[None]

    def advance(self, model: Any) -> Tensor:
        """One step of every row that is not done; returns the tokens committed in each row."""
        task, x = self.task, self.task.x
        active = self.block < self.n_blocks
        here = self.block.clamp(max=self.n_blocks - 1)
        position = task.places[self.row, here].where(active[:, None], -1)
        inside = position.clamp(min=0)
        undecided = (x.gather(1, inside) == task.mask_id) & (position >= 0)
        hidden = model.base_model(
            input_ids=x,
            position_ids=self.position_ids,
            use_cache=False,
            token_context=self.context,
        ).last_hidden_state
        needed = hidden[self.row[:, None], inside].flatten(0, 1)
        self.forwards += 1

        self.rng[:, :, 2], self.rng[:, :, 3] = self.step[:, None], position
        stats = ops.vocab_stats(
            model.get_output_embeddings()(needed),
            rows=self.number.where(undecided.flatten(), -1),
            suppress=self.suppress,
            temperature=self.heat,
            rng=None if self.heat is None else self.rng.flatten(0, 1),
        )
        chosen = ops.unmask_select_(
            x,
            position,
            stats.token.view_as(position),
            task.mask_id,
            **self._ranks(stats),
            **self.unmasking.rules(self.step, self.n_masks[self.row, here], self.n_blocks),
        )

        self.spent[self.row, here] += active
        self.tokens += chosen.n_committed
        done = active & (chosen.n_left == 0)
        self.stuck |= active & ~done & (chosen.n_committed == 0)
        self.step = torch.where(done, 0, self.step + 1)
        self.block = self.block + done
        leaves = self.stuck
        if task.eos is not None:
            ends = torch.isin(x.gather(1, inside), task.eos) & (position >= 0)
            leaves = leaves | (done & ends.any(1))
        self.block = torch.where(leaves, self.n_blocks, self.block)
        return chosen.n_committed

    def _ranks(self, stats: ops.VocabStats) -> dict[str, Any]:
        ranking = self.unmasking.ranking
        if ranking == "random":
            return {"rng": self.rng[:, 0, :3]}
        score = getattr(stats, ranking).view(self.rng.shape[:2])
        return {"score": score, "lowest_first": ranking == "entropy"}

    def run(self, model: torch.nn.Module, callback: Callback | None, progress: bool) -> None:
        """All steps.

        Raises:
            RuntimeError: some mask got no token.
        """
        finished = LateFlag(self.task.x.device)
        limit = self.limit if len(self.row) else 0
        total = int(self.n_masks.sum()) if progress else 0
        with torch.inference_mode(), installed(model), _bar(progress, total) as show:
            while self.forwards < limit:
                committed = self.advance(model)
                if progress:
                    show(int(committed.sum()))
                if callback is not None:
                    with torch.inference_mode(False):  # tensors the caller may change
                        callback(self.forwards, self.task.layout(self.task.x))
                if finished((self.block >= self.n_blocks).all()):
                    break
        self.stuck |= self.block < self.n_blocks
        if bool(self.stuck.any()):
            raise RuntimeError(
                "generate: no token could be chosen for some mask of rows "
                f"{self.stuck.nonzero().flatten().tolist()}: expected logits that are numbers, "
                "got NaN or -inf everywhere"
            )


def run(
    model: torch.nn.Module,
    task: Task,
    unmasking: Unmasking,
    chance: Chance,
    callback: Callback | None,
    progress: bool,
) -> tuple[Tensor, DiffusionStats]:
    """Fill the masks of `task`; returns the sequences as the caller sees them, and the stats."""
    began = time.perf_counter()
    state = DiffusionRun(task, unmasking, chance)
    state.run(model, callback, progress)
    sequences, new_tokens = task.layout(task.x), state.tokens.tolist()
    seconds = time.perf_counter() - began  # after tolist, which waits for a GPU
    return sequences, DiffusionStats(state.forwards, new_tokens, state.spent.tolist(), seconds)


class _bar:
    """Context manager: a progress bar, moved by calling what it returns, or nothing."""

    def __init__(self, shown: bool, total: int) -> None:
        self._progress = Progress() if shown else None
        self._total = total

    def __enter__(self) -> Callable[[int], None]:
        progress = self._progress
        if progress is None:
            return lambda tokens: None
        progress.start()
        task = progress.add_task("tokens", total=self._total)
        return lambda tokens: progress.advance(task, tokens)

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
