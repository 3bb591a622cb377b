"""Masked diffusion models as any-order models."""

from typing import Any

import torch
from torch import Tensor


class MaskedAnyOrder:
    """`AnyOrderModel` of a masked diffusion model: what a token may not see is masked.

    Tokens that see the same share a row of the forward, so drafting takes one row per sequence and
    judging k drafts takes k. The law is that of the model's own conditionals in the given order.

    Args:
        model: a bidirectional model whose logits at a mask are those of the token there, as
            `load_diffusion` returns it.
        mask_id: of the mask; default: the model's `config.mask_token_id`.

    Raises:
        ValueError: no mask id given and none in the config.
    """

    def __init__(self, model: Any, mask_id: int | None = None) -> None:
        mask_id = getattr(model.config, "mask_token_id", None) if mask_id is None else mask_id
        if mask_id is None:
            raise ValueError("MaskedAnyOrder: mask_id: expected the id of the mask, got none")
        self.model, self.mask_id = model, mask_id

    def __call__(self, tokens: Tensor, rank: Tensor, positions: Tensor, bound: Tensor) -> Tensor:
        """Logits [B, n, V]; see `AnyOrderModel`."""
        batch, n = positions.shape
        shared = bound.stride(1) == 0  # one bound for all of them
        bound = bound[:, :1] if shared else bound
        seen = rank[:, None] < bound[:, :, None]
        rows = torch.where(seen, tokens[:, None], self.mask_id).flatten(0, 1)
        logits = self.model(rows).logits.view(batch, bound.shape[1], tokens.shape[1], -1)
        row = torch.zeros_like(positions) if shared else torch.arange(n, device=positions.device)
        chosen = logits[torch.arange(batch, device=row.device)[:, None], row, positions]
        return chosen.index_fill(2, torch.tensor([self.mask_id], device=row.device), -torch.inf)
