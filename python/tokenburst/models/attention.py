"""Our attention inside stock transformers models: registered once, told per call what is seen.

`model(..., token_context=TokenContext(...))` travels through the stock forward untouched and
reaches `_attention`.
"""

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from tokenburst import ops

NAME = "tokenburst"


class AttentionPlan(Protocol):
    """Attention of one generation in place of the dense one, where a forward holds all tokens."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, count: Tensor, scale: float | None
    ) -> Tensor:
        """[rows, Hq, L, D] attention of L tokens, count [rows] of them real, in one layer."""


@dataclass(frozen=True)
class TokenContext:
    """Where the N tokens of one forward stand; tensors on the model's device."""

    kv_len: Tensor  # [B] int32: committed rows of the cache, visible to every token
    n_nodes: Tensor  # [B] int32: real tokens of each row of the batch, the rest is padding
    ancestors: Tensor | None = (
        None  # [B, N, W] int32: visible tokens of this forward; None: see `causal`
    )
    causal: bool = True  # without `ancestors`: a chain, or (False) everything sees everything
    plan: AttentionPlan | None = None  # computes the attention, for tokens that see each other
    # Uncommitted rows of earlier forwards that precede this one's in the cache. With `ancestors`;
    # they count in `n_nodes`, and `ancestors` has a row and a bit for each of them.
    earlier: int = 0


def _attention(
    module,
    query,
    key,
    value,
    attention_mask,
    *,
    scaling=None,
    sliding_window=None,
    token_context=None,
    **kwargs,
):
    if token_context is None:
        raise ValueError("tokenburst attention: the model was called outside a tokenburst decoder")
    if token_context.plan is not None:
        count = token_context.n_nodes
        out = token_context.plan.attend(module.layer_idx, query, key, value, count, scaling)
        return out.transpose(1, 2), None
    earlier = token_context.earlier
    if earlier:
        query = torch.nn.functional.pad(query, (0, 0, earlier, 0))
    out, _ = ops.attn_tree(
        query,
        key,
        value,
        token_context.kv_len,
        ancestors=token_context.ancestors,
        n_nodes=token_context.n_nodes,
        causal=token_context.causal,
        window=sliding_window,
        scale=scaling,
    )
    if earlier:
        out = out[:, :, earlier:]
    return out.transpose(1, 2), None


# What is visible is decided by TokenContext, so there is no entry in AttentionMaskInterface: then
# the model builds no mask.
AttentionInterface.register(NAME, _attention)

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
LAYERS = {"full_attention", "sliding_attention"}


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """A model of the same weights, in evaluation mode, with our attention for good.

    Raises:
        ValueError: as `installed`.
    """
    installed(model)
    weights = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, weights)
    copied.set_attn_implementation(NAME)
    return copied.eval()


class installed:
    """Context manager: `model` computes attention with our kernels inside, its own again after.

    Raises:
        ValueError: the model is of no supported architecture, or has layers of another kind than
            full attention and sliding windows.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        config = getattr(model, "config", None)
        kind = getattr(config, "model_type", type(model).__name__)
        if kind not in SUPPORTED:
            raise ValueError(f"model: expected one of {', '.join(SUPPORTED)}, got {kind}")
        other = set(getattr(config, "layer_types", None) or ()) - LAYERS
        if other:
            raise ValueError(f"model: expected layers of {sorted(LAYERS)}, got {sorted(other)}")
        self.model = model

    def __enter__(self) -> torch.nn.Module:
        # All modules of these architectures share one config. The walk over them that
        # `set_attn_implementation` makes, and one for the mode, cost a small model's forward.
        config = self.model.config
        self._before, config._attn_implementation = config._attn_implementation, NAME
        self._training = self.model.training
        if self._training:
            self.model.eval()
        return self.model

    def __exit__(self, *exception: object) -> None:
        self.model.config._attn_implementation = self._before
        if self._training:
            self.model.train()
