"""How published diffusion checkpoints describe themselves, and the stock classes that run them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from tokenburst.models.attention import SUPPORTED


@dataclass(frozen=True)
class Layout:
    """A checkpoint format."""

    config: Callable[[dict[str, Any]], PretrainedConfig]  # config.json -> stock configuration
    rename: Callable[[str], str] = lambda name: name  # stored tensor name -> stock name


_LLADA_BLOCK = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}
_LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
# What LlamaForCausalLM computes, in the words of a LLaDA config.json.
_LLADA_FIXED = {
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}


def llada_name(stored: str) -> str:
    """`model.transformer.blocks.3.ff_proj.weight` -> `model.layers.3.mlp.gate_proj.weight`."""
    parts = stored.removeprefix("model.transformer.").split(".")
    if len(parts) == 4 and parts[0] == "blocks" and parts[2] in _LLADA_BLOCK:
        return f"model.layers.{parts[1]}.{_LLADA_BLOCK[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _LLADA_TOP:
        return f"{_LLADA_TOP[parts[0]]}.{parts[1]}"
    return stored


def _llada(stored: dict[str, Any]) -> PretrainedConfig:
    for name, value in _LLADA_FIXED.items():
        if stored.get(name, value) not in (value, value or None):
            raise ValueError(f"config.json: {name}: expected {value!r}, got {stored[name]!r}")
    heads = stored["n_heads"]
    kv_heads = stored.get("n_kv_heads") or (1 if stored.get("multi_query_attention") else heads)
    return LlamaConfig(
        vocab_size=stored.get("embedding_size") or stored["vocab_size"],
        hidden_size=stored["d_model"],
        intermediate_size=stored.get("mlp_hidden_size") or stored["mlp_ratio"] * stored["d_model"],
        num_hidden_layers=stored["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=stored["max_sequence_length"],
        rms_norm_eps=stored["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": stored["rope_theta"]},
        tie_word_embeddings=bool(stored.get("weight_tying")),
        **_ids(stored),
    )


def _ids(stored: dict[str, Any]) -> dict[str, Any]:
    names = ("mask_token_id", "eos_token_id", "bos_token_id", "pad_token_id")
    return {name: stored.get(name) for name in names}


# Of the published file, what a stock configuration must not inherit.
_FOREIGN = ("architectures", "auto_map", "model_type", "transformers_version", "use_cache")


def _as(make: type[PretrainedConfig], **more: Any) -> Callable[[dict], PretrainedConfig]:
    """The fields are those of the stock class already."""

    def config(stored: dict[str, Any]) -> PretrainedConfig:
        kept = {n: v for n, v in stored.items() if n not in _FOREIGN}
        if not kept.get("use_sliding_window"):
            kept["sliding_window"] = None
        if kept.pop("use_mrope", False):
            raise ValueError("config.json: use_mrope: expected false, got true")
        theta = kept.pop("rope_theta", None)
        scaling = kept.pop("rope_scaling", None)
        if theta is not None and "rope_parameters" not in kept:
            kept["rope_parameters"] = {"rope_type": "default"} | (scaling or {})
            kept["rope_parameters"]["rope_theta"] = theta
        return make(**kept | _ids(stored) | more)

    return config


def _sdar(stored: dict[str, Any]) -> PretrainedConfig:
    config = _as(Qwen3Config)(stored)
    config.block_length = stored.get("block_length") or stored.get("block_size")
    config.block_causal = True
    return config


def _stock(stored: dict[str, Any]) -> PretrainedConfig:
    kept = dict(stored)
    return AutoConfig.for_model(kept.pop("model_type"), **kept)


LAYOUTS = {
    "llada": Layout(_llada, llada_name),
    "Dream": Layout(_as(Qwen2Config, shifted=True)),
    "sdar": Layout(_sdar),
    **{kind: Layout(_stock) for kind in SUPPORTED},
}


def ntk_scale(length: int, *, trained: int, theta: float, head_dim: int) -> int:
    """The factor on rope_theta with which a model reads texts of `length` tokens.

    Args:
        length: tokens of the longest text.
        trained: tokens of the texts that the model was trained on.
        theta: its rope_theta.
        head_dim: of its attention.

    Returns:
        ceil((length / 2 pi) ** (head_dim / critical) / theta), where `critical` counts the
        dimensions whose period was seen whole in training; at least 1.

    Raises:
        ValueError: a size below 1, or a theta that is not above 1.

    Example:
        >>> ntk_scale(16384, trained=4096, theta=5e5, head_dim=128)  # LLaDA-8B
        14

    Source: Liu et al., LongLLaDA, arXiv 2506.14429, section 4.
    """
    if min(length, trained, head_dim) < 1 or not theta > 1:
        raise ValueError(
            "ntk_scale: expected length, trained, head_dim >= 1 and theta > 1, got "
            f"{length}, {trained}, {head_dim}, {theta}"
        )
    periods = math.log(max(trained, 7) / (2 * math.pi), theta)
    critical = 2 * math.ceil(head_dim / 2 * periods)
    return max(1, math.ceil((length / (2 * math.pi)) ** (head_dim / critical) / theta))
