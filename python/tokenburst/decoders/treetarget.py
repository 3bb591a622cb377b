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

    def forward(self, tokens: Tensor, depth: Tensor, context: TokenContext) -> Tensor:
        """Hidden states [B, N, hidden] of tokens at positions kv_len + depth."""
        self.cache.place(tokens.shape[1])
        positions = self.cache.kv_len[:, None].to(torch.int64) + depth
        return self.model.base_model(
            input_ids=tokens.clamp(min=0),
            position_ids=positions,
            use_cache=True,
            token_context=context,
            **cache_argument(self.model.base_model, self.cache),
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, V] of hidden rows [R, hidden]."""
        rows = hidden.shape[0]
        if rows != whole(rows):
            hidden = torch.cat([hidden, hidden[:1].expand(whole(rows) - rows, -1)])
        return self.model.get_output_embeddings()(hidden)[:rows]
