"""The target model and its cache: tokens in, logits out."""

import torch
from torch import Tensor

from tokenburst.decoders.common import whole
from tokenburst.models.attention import TokenContext
from tokenburst.models.cache import TreeCache, cache_argument


class Target:
    """A causal language model over a `TreeCache`."""

    def __init__(self, model: torch.nn.Module, cache: TreeCache) -> None:
        self.model, self.cache = model, cache
        self._body, self._head = model.base_model, model.get_output_embeddings()
        self._given = {**cache_argument(self._body, cache), "use_cache": True}

    def forward(self, tokens: Tensor, depth: Tensor, context: TokenContext) -> Tensor:
        """Hidden states [B, N, hidden] of tokens at positions kv_len + depth."""
        self.cache.place(tokens.shape[1])
        return self._body(
            input_ids=tokens.clamp(min=0),
            position_ids=self.cache.kv_len[:, None] + depth,
            token_context=context,
            **self._given,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., V] of hidden rows [.., hidden]; [R, hidden] where they are no whole groups."""
        rows = hidden.shape[:-1].numel()
        if rows != whole(rows):
            hidden = torch.cat([hidden, hidden[:1].expand(whole(rows) - rows, -1)])
            return self._head(hidden)[:rows]
        return self._head(hidden)
