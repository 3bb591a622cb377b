"""The loop of masked diffusion decoding.

One step is one forward of the whole batch, one sweep over the logits of the current blocks and one
selection in place. Each row moves through its blocks at its own pace, and where it stands is kept
on the device: a row's tokens do not depend on its neighbours, and nothing waits for the host.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenburst.decoders.chance import Chance
from tokenburst.decoders.diffusionstats import DiffusionStats, TraceStep
from tokenburst.decoders.homes import Homes, Memory, nested
from tokenburst.decoders.late import LateCopy
from tokenburst.decoders.progress import Bar
from tokenburst.decoders.reading import Reader, look_up
from tokenburst.decoders.scoring import Scorer
from tokenburst.decoders.tasks import Task
from tokenburst.decoders.unmasking import Plan, Rule, Step, Unmasking
from tokenburst.models.attention import installed

Callback = Callable[[int, Tensor], None]


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
        n_masks = (task.places >= 0).sum(2)
        holds = n_masks > 0
        # Rows that are done stand in a further block, which has no masks.
        self.places = pad(task.places, (0, 0, 0, 1), value=-1)
        self.n_masks, self.spent = pad(n_masks, (0, 1)), pad(torch.zeros_like(n_masks), (0, 1))
        self.bounds = pad(task.bounds(), (0, 0, 0, 1)) if scorer.bounded else None
        self.blocks = holds.sum(1).clamp(min=1)
        self.skips = self.needs.sequence or not bool(holds.all())
        self.block = torch.zeros_like(self.row)
        if self.skips:
            self.block = torch.where(holds.any(1), holds.int().argmax(1), self.n_blocks)
        self.step = torch.zeros_like(self.block)  # spent in the current block
        self.came = torch.zeros_like(self.block)  # block that a row was in before its current one
        self.tokens = torch.zeros(batch, dtype=torch.int32, device=device)
        self.stuck = torch.zeros(batch, dtype=torch.bool, device=device)
        self.turns = self.forwards = 0  # steps, which may be more than forwards
        self.trace: list[TraceStep] | None = None

        rows = width * (self.n_blocks if self.needs.sequence else 1)
        self.names = torch.stack([chance.seeds(self.row), chance.names(self.row)], 1)
        heat = chance.heat(self.row)
        self.rng: Tensor | None = None  # names of the draws of tokens
        if heat is not None:
            heat = heat.repeat_interleave(rows)
            self.rng = pad(self.names[:, None].repeat(1, rows, 1), (0, 2))
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
        # Without a cache the same sequence gets the same logits: policies that may let a step pass
        # read them again.
        dense = scorer.feeding is None and scorer.attention is None
        self.rests = self.needs.pauses and dense
        self.kept: tuple[Tensor, Tensor] | None = None
        self.late = LateCopy(device, lag=1)
        scorer.late = self.late.late
        # Where the host hears late what a cache wants computed, a row may find no room.
        self.memory = None
        if scorer.late and scorer.feeding is not None and scorer.attention is None:
            self.memory = Memory(self.process)
        self.current = torch.ones(batch, rows, dtype=torch.bool, device=device)
        self.look()
        self.asks = self.active.clone()  # rows whose forward says anything new
        # On a GPU the step can be captured.
        self.homes: Homes | None = None
        if device.type == "cuda":
            self.settle()

    def settle(self) -> None:
        """What a step leaves behind lies from now on where it lies now."""
        if self.homes is None:
            self.homes = Homes(self, self.scorer, self.scorer.feeding, *nested(self.process))
        self.homes.settle()

    def look(self) -> None:
        """Where each row stands, and with that what its next forward computes."""
        task, x, scorer = self.task, self.task.x, self.scorer
        self.active = self.block < self.n_blocks
        self.here = self.block
        if self.needs.sequence:
            self.here = self.block.clamp(max=self.n_blocks - 1)
            here = self.numbers == self.here[:, None]
            self.current = here.repeat_interleave(task.places.shape[2], 1)
            self.position = task.places.flatten(1).where(self.active[:, None], -1)
        else:
            self.position = self.places[self.row, self.here]
        if self.needs.cuts:
            scorer.cut(self.process.lengths)
            inside = self.position < self.process.lengths[:, None]
            self.position = self.position.where(inside, -1)
        self.own = self.position.clamp(min=0)
        there = self.position >= 0
        self.masked = (x.gather(1, self.own) == task.mask_id) & there
        self.seen = there if self.needs.decided else self.masked
        chosen = None
        if getattr(scorer.cache, "foresees", False):
            assert isinstance(self.process, Rule)  # check_cache asked for it
            chosen = self.process.foresee(self._step(stats=None, logits_at=None))
            self.seen = self.seen & chosen
        bounds = before = None
        if self.bounds is not None:
            bounds = self.bounds[self.row, self.here]
            before = self.bounds[self.row, self.came, 0]
        where = self.position, self.own, self.seen, self.active, self.step
        scorer.plan(x, *where, bounds, before, chosen)

    def hold(self, width: int) -> None:
        """Rows for which a forward of this width has no room sit the step out."""
        fits = self.scorer.fits(width)
        row = fits[:, None]
        self.position = self.position.where(row, -1)
        self.active, self.asks = self.active & fits, self.asks & fits
        self.masked, self.seen = self.masked & row, self.seen & row

    def advance(self, width: int, again: bool = False) -> None:
        """One step of every row that is not done; asks the host nothing.

        Args:
            width: positions of a row that the forward computes.
            again: no row has anything new to ask of the model: read its last answer again.
        """
        task, x = self.task, self.task.x
        if self.memory is not None:
            self.hold(width)
            self.memory.note()
        active, here = self.active, self.here
        self.turns += 1
        if again and self.kept is not None:
            (hidden, logits), unguided = self.kept, None
        else:
            self.kept = None
            hidden = self.scorer.forward(self.model, x, width, active)
            self.forwards += 1
            logits, unguided = self.scorer.logits(self.model, hidden)

        if self.rng is not None:
            self.rng[:, :, 2], self.rng[:, :, 3] = self.step[:, None], self.position
        before = x.clone() if self.rests else x
        stats, log_odds = self.reader.read(logits, self.seen, self.rng, unguided)
        step = self._step(
            stats=stats,
            logits_at=look_up(logits, self.reader.shape),
            hidden=hidden if self.needs.hidden else None,
            log_odds=log_odds,
        )
        chosen = self.process.select(step)
        if self.memory is not None:
            self.memory.keep(active)

        if self.trace is not None:
            shown = self.position, self.masked, stats.token, stats.confidence, chosen.committed
            self.trace.append(TraceStep(*(t.clone() for t in shown)))
        self.spent.index_put_((self.row, here), self.asks.long(), accumulate=True)
        self.tokens += chosen.n_committed
        # Flags and counts compare as numbers: a row is done that is active and has nothing left.
        done = active > chosen.n_left
        leaves = self.stuck
        if not self.needs.pauses:
            idle = active > chosen.n_committed
            self.stuck = leaves = leaves | (idle > done)
        if task.eos is not None:
            ends = torch.isin(x.gather(1, self.own), task.eos) & (self.position >= 0)
            leaves = leaves | (done & (ends & self.current).any(1))
        self.step = (self.step + active).masked_fill(done, 0)
        if self.bounds is not None:
            self.came = torch.where(done, here, self.came)
        block, self.block = self.block, self._next(done).masked_fill(leaves, self.n_blocks)
        self.look()
        self.asks = self.active
        if self.rests:
            same = (x == before).all(1) & (self.block == block)
            self.asks = self.active & self.seen.any(1) & ~same
            if not self.late.late:  # else it is not known in time
                self.kept = hidden, logits
        if self.homes is not None:
            self.homes.settle()

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
            rng=torch.cat([self.names, self.step[:, None]], 1),
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

    def news(self) -> list[list[int]] | None:
        """What the host wants to know between steps: who is active, who asks, and `asked`.

        On a GPU it is that of the step before, so that the host never waits for this one.
        """
        told = [self.active, *([self.asks] if self.rests else []), *self.scorer.asked()]
        here = self.late(torch.stack(told) if len(told) > 1 else self.active[None])
        return None if here is None else here.tolist()

    def run(self, callback: Callback | None, progress: bool) -> None:
        """All steps.

        Raises:
            RuntimeError: some mask got no token.
        """
        # Of two steps in a row that are planned late at least one has room for each row.
        limit = (self.limit * 2 + 2 if self.memory else self.limit) if len(self.row) else 0
        live, width, again = list(range(len(self.row))), None, False
        model, bar = installed(self.model), Bar(progress, self.n_masks)
        with torch.inference_mode(), model, bar:
            told = self.news() if limit else None
            while self.turns < limit:
                asked = []
                if told is not None:
                    active, *asked = told
                    stay = [place for place, row in enumerate(live) if active[row]]
                    if not stay:
                        break
                    if 2 * len(stay) <= len(live):
                        live = [live[place] for place in stay]
                        self.scorer.shrink(stay)
                    if self.rests:
                        again = not any(asked.pop(0))
                width = self.scorer.width(asked, width if self.late.late else None)
                self.advance(width, again)
                bar.show(self.tokens)
                if callback is not None:
                    with torch.inference_mode(False):  # tensors the caller may change
                        callback(self.forwards, self.task.layout(self.task.x))
                told = self.news()
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
    steps = state.spent[:, :-1].tolist()
    sparse = None if scorer.attention is None else scorer.attention.stats()
    stats = DiffusionStats(state.forwards, new_tokens, steps, seconds, state.trace, sparse)
    return sequences, stats
