"""A draft model beside other drafters: it reads the text as it came, not as it drafted it."""

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import whole
from tokenburst.decoders.drafting import DraftState
from tokenburst.decoders.draftkv import LevelReader
from tokenburst.decoders.shapes import FIRST_ROW, ROOT_ROW
from tokenburst.models.attention import TokenContext


class TextReader(LevelReader):
    """`LevelReader` for texts that other drafters continue, too.

    What was accepted may stand in no row of this model's own tree, so a step begins with all tokens
    that the text has gained, up to `state.shared` of them, and nothing of the tree is kept.
    """

    def __init__(self, model: torch.nn.Module, state: DraftState, most_rows: int) -> None:
        self._tail = state.shared  # rows before those of the tree; the root is the last used one
        super().__init__(model, state, self._tail + most_rows)
        device = state.tokens.device
        chain = torch.arange(-1, self._tail - 1, device=device)[None]
        bits = ops.tree_build(chain, torch.tensor([self._tail], device=device)).ancestors
        self._ancestors[:, : self._tail, : bits.shape[2]] = bits
        self._column = torch.arange(whole(self._tail), device=device)
        self._size = bits.new_full((len(state.root),), self._tail)

    def root(self, state: DraftState) -> Tensor:
        """Logits [B, 1, V] after the root; a new step."""
        kv_len = self.cache.kv_len
        self._gained = torch.minimum(state.length - kv_len, self._size)
        place = kv_len[:, None] + self._column
        tokens = state.tokens.gather(1, place.clamp(max=state.tokens.shape[1] - 1))
        context = TokenContext(kv_len, self._gained)
        hidden = self._forward(tokens, self._column[None], context, 0)
        self._used = self._tail
        self._root_row = (self._gained - 1).clamp(min=0).long()[:, None]
        last = self._root_row[:, :, None].expand(-1, 1, hidden.shape[2])
        return self._logits(hidden.gather(1, last))

    def level(self, tokens: Tensor, parent_row: Tensor, depth: int | Tensor) -> Tensor:
        """As that of a `LevelReader`, whose rows stand behind those of the text."""
        behind = parent_row + (self._tail - FIRST_ROW)
        row = torch.where(parent_row == ROOT_ROW, self._root_row, behind)
        return super().level(tokens, row, depth + self._root_row - ROOT_ROW)

    def commit(self, row_of_node: Tensor, path: Tensor, n_accepted: Tensor) -> None:
        """The text that was read stays."""
        self.cache.kv_len += self._gained

    def keep(self, rows: Tensor) -> None:
        """Row i of the batch becomes what was rows[i]."""
        super().keep(rows)
        self._size = self._size[rows]
