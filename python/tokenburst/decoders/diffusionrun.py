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

from tokenburst.decoders.common import LateFlag
from tokenburst.decoders.homes import Homes
from tokenburst.decoders.reading import Reader, Sampling, look_up
from tokenburst.decoders.scoring import Scorer
from tokenburst.decoders.sparsedrun import SparseStats
from tokenburst.decoders.tasks import Task
from tokenburst.decoders.unmasking import Plan, Rule, Step, Unmasking
from tokenburst.models.attention import installed

Callback = Callable[[int, Tensor], None]


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


class DiffusionRun:
    """One call of generate or infill: the state of a batch, all of it on the device."""

    def __init__(
        self, model: Any, task: Task, unmasking: Unmasking, chance: Chance, scorer: Scorer
    ) -> None:
        self.model, self.task, self.needs = model, task, unmasking.needs
        self.scorer = scorer
        device = task.x.device
        batch, self.n_blocks, width = task.places.shape
        self.limit = self.n_blocks * unmasking.most_steps(task.n_masks, self.n_blocks)
        self.row = torch.arange(batch, device=device)
        self.numbers = torch.arange(self.n_blocks, device=device)
        self.n_masks = (task.places >= 0).sum(2)
        holds = self.n_masks > 0
        # Blocks finished so far; a row without masks has nothing to do.
        self.block = torch.where(holds.any(1), holds.int().argmax(1), self.n_blocks)
        self.blocks = holds.sum(1).clamp(min=1)
        self.skips = self.needs.sequence or not bool(holds.all())
        self.step = torch.zeros_like(self.block)  # spent in the current block
        self.spent = torch.zeros_like(self.n_masks)
        self.tokens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.stuck = torch.zeros(batch, dtype=torch.bool, device=device)
        self.forwards = 0
        self.trace: list[TraceStep] | None = None

        rows = width * (self.n_blocks if self.needs.sequence else 1)
        self.rng = torch.zeros(batch, rows, 4, dtype=torch.int64, device=device)
        self.rng[:, :, 0] = chance.seeds(self.row)[:, None]
        self.rng[:, :, 1] = chance.names(self.row)[:, None]
        heat = chance.heat(self.row)
        heat = None if heat is None else heat.repeat_interleave(rows)
        vocab_size = model.get_output_embeddings().weight.shape[0]
        self.reader = Reader(
            self.needs,
            chance.sampling,
            heat,
            (batch, rows),
            task.mask_id,
            vocab_size,
            device,
            chance.guidance,
        )
        plan = Plan(task.x, task.places, self.blocks, task.mask_id, vocab_size, model, task.lengths)
        self.process: Any = unmasking.begin(plan)
        self.bounds = task.bounds()
        self.came = torch.zeros_like(self.block)  # block that a row was in before its current one
        self.turns = 0  # steps, which may be more than forwards
        # Without a cache the same sequence gets the same logits: policies that may let a step pass
        # read them again.
        dense = scorer.cache is None and scorer.attention is None
        self.rests = self.needs.pauses and dense
        self.kept: tuple[Tensor, Tensor] | None = None
        self.look()
        self.asks = self.active.clone()  # rows whose forward says anything new
        # On a GPU the step can be captured.
        fixed = device.type == "cuda"
        self.homes = Homes(self, self.scorer, self.process) if fixed else None

    def look(self) -> None:
        """Where each row stands, and with that what its next forward computes."""
        task, x = self.task, self.task.x
        self.active = self.block < self.n_blocks
        self.here = self.block.clamp(max=self.n_blocks - 1)
        if self.needs.sequence:
            position = task.places.flatten(1)
            here = self.numbers == self.here[:, None]
            self.current = here.repeat_interleave(task.places.shape[2], 1)
        else:
            position = task.places[self.row, self.here]
            self.current = torch.ones_like(position, dtype=torch.bool)
        self.position = position.where(self.active[:, None], -1)
        if self.needs.cuts:
            self.scorer.cut(self.process.lengths)
            self.position = self.position.where(position < self.process.lengths[:, None], -1)
        found = x.gather(1, self.position.clamp(min=0))
        self.masked = (found == task.mask_id) & (self.position >= 0)
        self.seen = self.position >= 0 if self.needs.decided else self.masked
        chosen = None
        if getattr(self.scorer.cache, "foresees", False):
            assert isinstance(self.process, Rule)  # check_cache asked for it
            chosen = self.process.foresee(self._step(stats=None, logits_at=None))
            self.seen = self.seen & chosen
        self.scorer.plan(
            x,
            wanted=self.position.where(self.seen, -1),
            bounds=self.bounds[self.row, self.here],
            before=self.bounds[self.row, self.came, 0],
            step=self.step,
            active=self.active,
            chosen=chosen,
        )

    def advance(self, width: int) -> Tensor:
        """One step of every row that is not done; returns the tokens committed in each row.

        On the CPU a step in which no row has anything new to ask of the model runs without it.

        Args:
            width: what the scorer answered since the last `look`.
        """
        task, x = self.task, self.task.x
        active, here, position, current = self.active, self.here, self.position, self.current
        self.turns += 1
        if self.kept is not None and not bool(self.asks.any()):
            (hidden, logits), unguided = self.kept, None
        else:
            self.kept = None
            hidden = self.scorer.forward(self.model, x, width)
            self.forwards += 1
            logits, unguided = self.scorer.logits(self.model, hidden)

        self.rng[:, :, 2], self.rng[:, :, 3] = self.step[:, None], position
        before = x.clone() if self.rests else x
        stats, log_odds = self.reader.read(logits, self.seen, self.rng, unguided)
        step = self._step(
            stats=stats,
            logits_at=look_up(logits, self.reader.shape),
            hidden=hidden if self.needs.hidden else None,
            log_odds=log_odds,
        )
        chosen = self.process.select(step)

        if self.trace is not None:
            shown = position, self.masked, stats.token, stats.confidence, chosen.committed
            self.trace.append(TraceStep(*(t.clone() for t in shown)))
        self.spent[self.row, here] += self.asks
        self.tokens += chosen.n_committed
        done = active & (chosen.n_left == 0)
        leaves = self.stuck
        if not self.needs.pauses:
            leaves = leaves | (active & ~done & (chosen.n_committed == 0))
            self.stuck = leaves
        if task.eos is not None:
            ends = torch.isin(x.gather(1, position.clamp(min=0)), task.eos)
            leaves = leaves | (done & (ends & (position >= 0) & current).any(1))
        self.step = torch.where(done, 0, self.step + 1)
        self.came = torch.where(done, here, self.came)
        block, self.block = self.block, torch.where(leaves, self.n_blocks, self._next(done))
        self.look()
        self.asks = self.active
        if self.rests:
            same = (x == before).all(1) & (self.block == block)
            self.asks = self.active & self.seen.any(1) & ~same
            if x.device.type == "cpu":  # a GPU would have to be waited for
                self.kept = hidden, logits
        if self.homes is not None:
            self.homes.settle()
        return chosen.n_committed

    def _step(self, **seen: Any) -> Step:
        """Where each row stands, with what the model says of it."""
        return Step(
            x=self.task.x,
            position=self.position,
            masked=self.masked,
            current=self.current,
            active=self.active,
            step=self.step,
            n_masks=self.n_masks[self.row, self.here],
            block=self.here,
            n_blocks=self.blocks,
            rng=torch.cat([self.rng[:, 0, :2], self.step[:, None]], 1),
            mask_id=self.task.mask_id,
            **seen,
        )

    def _next(self, done: Tensor) -> Tensor:
        """Where each row goes on: done ones at the next block that holds a mask."""
        block = self.block + done
        if not self.skips:
            return block
        places = self.task.places
        found = self.task.x.gather(1, places.clamp(min=0).flatten(1)).view_as(places)
        masks = ((found == self.task.mask_id) & (places >= 0)).any(2)
        ahead = masks & (self.numbers >= block[:, None])
        first = torch.where(ahead.any(1), ahead.int().argmax(1), self.n_blocks)
        return torch.where(done, first, block)

    def run(self, callback: Callback | None, progress: bool) -> None:
        """All steps.

        Raises:
            RuntimeError: some mask got no token.
        """
        finished, thinned = (LateFlag(self.task.x.device) for _ in "ft")
        limit = self.limit if len(self.row) else 0
        total = int(self.n_masks.sum()) if progress else 0
        with torch.inference_mode(), installed(self.model), _bar(progress, total) as show:
            while self.turns < limit and (width := self.scorer.width()):
                committed = self.advance(width)
                if progress:
                    show(int(committed.sum()))
                if callback is not None:
                    with torch.inference_mode(False):  # tensors the caller may change
                        callback(self.forwards, self.task.layout(self.task.x))
                if finished((self.block >= self.n_blocks).all()):
                    break
                if thinned(self.active.sum() * 2 <= len(self.scorer.live)):
                    self.scorer.shrink(self.active)
                    thinned = LateFlag(self.task.x.device)
        self.stuck = self.stuck | (self.block < self.n_blocks)
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
    scorer: Scorer,
    callback: Callback | None,
    progress: bool,
    trace: bool = False,
) -> tuple[Tensor, DiffusionStats]:
    """Fill the masks of `task`; returns the sequences as the caller sees them, and the stats."""
    began = time.perf_counter()
    state = DiffusionRun(model, task, unmasking, chance, scorer)
    state.trace = [] if trace else None
    state.run(callback, progress)
    tokens = state.tokens if task.most is None else state.tokens.minimum(task.most)
    sequences, new_tokens = task.layout(task.x), tokens.tolist()
    seconds = time.perf_counter() - began  # after tolist, which waits for a GPU
    steps = state.spent.tolist()
    sparse = None if scorer.attention is None else scorer.attention.stats()
    stats = DiffusionStats(state.forwards, new_tokens, steps, seconds, state.trace, sparse)
    return sequences, stats


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
