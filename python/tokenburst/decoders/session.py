"""What a conversation keeps from turn to turn: the KV of the text so far."""

import torch
from torch import Tensor

from tokenburst.models.cache import TreeCache


class Session:
    """Give the same one to every `TreeDecoder.generate` of a conversation.

    Each turn is called with the whole conversation as it stands then. Of each row, as much as
    agrees with the text of the turn before is taken from the cache, and only the rest is scored.
    The result is that of a call without a session. Rows may differ in length, their number stays.
    """

    def __init__(self) -> None:
        self.cache: TreeCache | None = None
        self.tokens: Tensor | None = None  # [B, L] int64: the text whose KV the cache holds
        self.reused: list[int] = []  # tokens of each row that the latest turn did not score again
        self._model: torch.nn.Module | None = None

    def resume(
        self, model: torch.nn.Module, prompt: Tensor, lengths: Tensor, cache_length: int
    ) -> TreeCache:
        """A cache of at least `cache_length` rows whose `kv_len` is what need not be scored.

        Args:
            prompt: [B, P] int64, packed to the left.
            lengths: [B] int32; at least the last token of each row is left to score.

        Raises:
            ValueError: the session belongs to another model or another number of rows.
        """
        batch, old = len(prompt), self.cache
        if self._model is not None and self._model is not model:
            raise ValueError("generate: session: expected the model it began with, got another")
        if self.tokens is not None and len(self.tokens) != batch:
            raise ValueError(
                f"generate: session: expected {len(self.tokens)} rows as before, got {batch}"
            )
        self._model = model
        if self.tokens is None:
            old = None
        if old is not None and old.length >= cache_length:
            cache = old
        else:
            grown = cache_length if old is None else max(cache_length, old.length * 3 // 2)
            cache = TreeCache(model.config, batch, grown, model.dtype, prompt.device)
            if old is not None:
                cache.copy_from(old)
        known = torch.zeros_like(lengths)
        if old is not None and self.tokens is not None:
            width = min(prompt.shape[1], self.tokens.shape[1])
            column = torch.arange(width, device=prompt.device)
            same = prompt[:, :width] == self.tokens[:, :width]
            same &= column < torch.minimum(old.kv_len, lengths - 1)[:, None]
            known = same.to(torch.int32).cumprod(1).sum(1).to(torch.int32)
        cache.kv_len.copy_(known)
        self.cache, self.reused = cache, known.tolist()
        self.tokens = None  # until the turn has ended well
        return cache

    def remember(self, cache: TreeCache, tokens: Tensor, length: Tensor) -> None:
        """The text [B, L] after a turn; its last token is not in the cache yet."""
        self.tokens = tokens
        cache.kv_len.copy_(torch.minimum(cache.kv_len, length - 1))
