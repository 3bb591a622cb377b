"""Draws from a draft model: which numbers name a draw, and what it was drawn from."""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.drafting import DraftState
from tokenburst.decoders.draftkv import LevelReader


class Drawn(NamedTuple):
    """Candidates after n nodes, in draw order."""

    ids: Tensor  # [B, n, k] int64, -1 where nothing is left to draw
    log_q: Tensor  # [B, n, k] float32
    g: Tensor  # [B, n, k] float32: their perturbed log probabilities, descending


class Drawer:
    """One step of drafting: reads nodes level by level and keeps what their children were drawn of.

    Where every row is greedy nothing is drawn: candidates are the most probable ones at temperature
    1, and their log probabilities stand for perturbed ones.

    Args:
        reader: of the draft model.
        state: of the batch.
        temperature: of the draft, None = that of each row; of use in rows that are not greedy.
        top_k, top_p: what is left of a draft distribution; 0 and 1 leave all.
    """

    def __init__(
        self,
        reader: LevelReader,
        state: DraftState,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        self.reader, self.state = reader, state
        own = (
            state.temperature
            if temperature is None
            else torch.full_like(state.temperature, temperature)
        )
        self.temperature = torch.where(state.temperature > 0, own, 0.0)
        self._top_k, self._top_p = top_k, top_p
        self._levels: list[Tensor] = []
        self._rows = 0

    def root(self) -> None:
        """Reads the root."""
        self._append(self.reader.root(self.state))

    def level(self, tokens: Tensor, parent_row: Tensor, depth: int) -> None:
        """Reads the nodes [B, n] of one depth below rows [B, n] of the reader."""
        self._append(self.reader.level(tokens, parent_row, depth))

    def _append(self, logits: Tensor) -> None:
        if not self.state.greedy:
            logits = self._cut(logits)
        self._levels.append(logits)
        self._rows += logits.shape[1]

    def _cut(self, logits: Tensor) -> Tensor:
        """Without the tokens that top_k and top_p leave out."""
        if 0 < self._top_k < logits.shape[2]:
            least = logits.topk(self._top_k, dim=2).values[:, :, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self._top_p < 1:
            heat = self.temperature.clamp(min=1e-4)[:, None, None]
            ranked, order = logits.float().sort(dim=2, descending=True, stable=True)
            p = (ranked / heat).softmax(2)
            out = p.cumsum(2) - p >= self._top_p
            logits = logits.masked_fill(torch.zeros_like(out).scatter_(2, order, out), -torch.inf)
        return logits

    def draw(
        self,
        k: int,
        parent_g: Tensor | None = None,
        parent_phi: Tensor | None = None,
        replacement: bool = False,
    ) -> Drawn:
        """k candidates after each node of the level read last; see `ops.vocab_sample`."""
        logits = self._levels[-1]
        batch, n, vocab = logits.shape
        k = min(k, vocab) if not replacement else k
        if self.state.greedy:
            stats = ops.vocab_stats(logits, k)
            log_q = stats.values - stats.lse[:, None]
            ids, log_q = stats.ids.view(batch, n, k), log_q.view(batch, n, k)
            phi = 0.0 if parent_phi is None else parent_phi[:, :, None]
            return Drawn(ids, log_q, log_q + phi)
        position = torch.arange(self._rows - n, self._rows, device=logits.device)
        rng = torch.cat(
            [
                self.state.rng[:, None].expand(-1, n, -1),
                position[None, :, None].expand(batch, -1, 1),
            ],
            2,
        )
        drawn = ops.vocab_sample(
            logits,
            k,
            self.temperature.repeat_interleave(n),
            rng.reshape(-1, 4),
            parent_g=None if parent_g is None else parent_g.reshape(-1),
            parent_phi=None if parent_phi is None else parent_phi.reshape(-1),
            replacement=replacement,
        )
        return Drawn(*(t.view(batch, n, k) for t in (drawn.ids, drawn.logq, drawn.g)))

    def distributions(self) -> Tensor:
        """Logits [B, R, V] of everything read, in the order of reading."""
        return torch.cat(self._levels, 1)
