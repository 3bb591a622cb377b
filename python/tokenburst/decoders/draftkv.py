"""A draft model that reads a tree level by level, each token once."""

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import whole
from tokenburst.decoders.drafting import DraftState
from tokenburst.models.attention import TokenContext
from tokenburst.models.cache import TreeCache, cache_argument


class LevelReader:
    """The draft model's view of a batch: its KV of the text, and the rows of the tree being drawn.

    The KV of a step begins with the text's last two tokens, because the one before the root may
    have been a leaf, which the draft model has never read. Row 0 is that token, row 1 the root, and
    each `level` appends its nodes. `commit` keeps the rows of the accepted path.

    Args:
        model: from `models.attention.twin`.
        state: a batch that starts.
        most_rows: rows that the levels of one step append at most.
    """

    def __init__(self, model: torch.nn.Module, state: DraftState, most_rows: int) -> None:
        self.model = model
        batch, width = state.tokens.shape
        device = state.tokens.device
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        rows = whole(2 + most_rows) + whole(1)
        self.cache = TreeCache(model.config, batch, width + rows, model.dtype, device)
        self._ancestors = torch.zeros(
            batch, rows, whole(-(-rows // 32)), dtype=torch.int32, device=device
        )
        self._ancestors[:, 0, 0], self._ancestors[:, 1, 0] = 1, 3
        row = torch.arange(rows, device=device)[:, None]
        word = torch.arange(self._ancestors.shape[2], device=device)
        # int32 has no shift of the sign bit that torch would promise, so words are made as int64.
        bits = torch.where(row // 32 == word, 1 << (row % 32), 0)
        self._own = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32)
        self._used = 0
        self._read_text(state)

    def _read_text(self, state: DraftState) -> None:
        """The KV of all but the last two tokens."""
        known = (state.length - 2).clamp_(min=0)
        longest = int(known.max()) if len(known) else 0
        if longest:
            width = whole(longest)
            text = torch.nn.functional.pad(state.tokens, (0, max(0, width - state.tokens.shape[1])))
            depth = torch.arange(width, device=text.device)[None]
            self._forward(text[:, :width], depth, TokenContext(self.cache.kv_len, known), 0)
        self.cache.kv_len += known

    def _forward(self, tokens: Tensor, depth: Tensor, context: TokenContext, row: int) -> Tensor:
        self.cache.place(tokens.shape[1], row)
        return self.model.base_model(
            input_ids=tokens.clamp(0, self.vocab_size - 1),
            position_ids=self.cache.kv_len[:, None].to(torch.int64) + depth,
            use_cache=True,
            token_context=context,
            **cache_argument(self.model.base_model, self.cache),
        ).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        """[B, n, V] of hidden [B, n, h]."""
        flat = hidden.reshape(-1, hidden.shape[2])
        rows = len(flat)
        flat = torch.cat([flat, flat[:1].expand(whole(rows) - rows, -1)])
        return self.model.get_output_embeddings()(flat)[:rows].view(*hidden.shape[:2], -1)

    def root(self, state: DraftState) -> Tensor:
        """Logits [B, 1, V] after the root; a new step."""
        last = (state.length.to(torch.int64) - 2).clamp_(min=0)[:, None]
        before = state.tokens.gather(1, last)
        tokens = torch.cat([before, state.root[:, None]], 1)
        tokens = torch.nn.functional.pad(tokens, (0, whole(2) - 2))
        depth = torch.arange(whole(2), device=tokens.device)[None]
        count = torch.full_like(self.cache.kv_len, 2)
        hidden = self._forward(tokens, depth, TokenContext(self.cache.kv_len, count), 0)
        self._used = 2
        return self._logits(hidden[:, 1:2])

    def level(self, tokens: Tensor, parent_row: Tensor, depth: int | Tensor) -> Tensor:
        """Logits [B, n, V] after nodes [B, n] below rows `parent_row` [B, n], `depth` [B, 1]
        edges deep.

        They take the next n rows. A token of -1 stands for no node; its logits mean nothing.
        """
        n, begin = tokens.shape[1], self._used
        self._used = end = begin + n
        words = self._ancestors.shape[2]
        above = self._ancestors.gather(1, parent_row.long()[:, :, None].expand(-1, -1, words))
        self._ancestors[:, begin:end] = above | self._own[begin:end]
        size = begin + whole(n)
        context = TokenContext(
            kv_len=self.cache.kv_len,
            n_nodes=torch.full_like(self.cache.kv_len, end),
            ancestors=self._ancestors[:, :size, : -(-size // 32)],
            earlier=begin,
        )
        tokens = torch.nn.functional.pad(tokens, (0, whole(n) - n))
        return self._logits(self._forward(tokens, depth + 1, context, begin)[:, :n])

    def commit(self, row_of_node: Tensor, path: Tensor, n_accepted: Tensor) -> None:
        """Keeps the KV of an accepted path [B, N] of nodes, of which row_of_node [B, N] tells rows.

        The last accepted node is left for the next step to read; a node that has been read by none,
        a leaf, can stand nowhere else.
        """
        inner = path[:, :-1].clamp(min=0)
        rows = torch.nn.functional.pad(row_of_node.gather(1, inner.long()), (1, 0))
        ops.tree_commit_kv_(self.cache.keys, self.cache.values, self.cache.kv_len, rows, n_accepted)
        self.cache.kv_len += n_accepted

    def keep(self, rows: Tensor) -> None:
        """Row i of the batch becomes what was rows[i]."""
        self.cache.arrange(rows.tolist(), len(rows))
        self._ancestors = self._ancestors[rows]
