"""Tiny random checkpoints in the published layouts, and their architectures in plain torch."""

import json

import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention, silu

VOCAB, HIDDEN, MLP, LAYERS, HEADS, KV_HEADS = 96, 32, 48, 2, 4, 2

LLADA = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0, "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig",
                 "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
                 "AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama",
    "d_model": HIDDEN, "embedding_dropout": 0.0, "embedding_size": VOCAB, "eos_token_id": 81,
    "flash_attention": False, "include_bias": False, "include_qkv_bias": False,
    "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
    "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True,
    "mask_token_id": 86, "max_sequence_length": 4096, "mlp_hidden_size": MLP, "mlp_ratio": 4,
    "model_type": "llada", "multi_query_attention": None, "n_heads": HEADS, "n_kv_heads": HEADS,
    "n_layers": LAYERS, "pad_token_id": 81, "precision": "amp_bf16", "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0,
    "scale_logits": False, "transformers_version": "4.46.3", "use_cache": False,
    "vocab_size": VOCAB - 6, "weight_tying": False,
}  # fmt: skip
DREAM = {
    "architectures": ["DreamModel"], "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig",
                 "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 83, "eos_token_id": 83, "hidden_act": "silu", "hidden_size": HIDDEN,
    "initializer_range": 0.02, "intermediate_size": MLP, "mask_token_id": 86,
    "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "Dream",
    "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
    "pad_token_id": 83, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2", "use_cache": True, "use_mrope": False,
    "use_sliding_window": False, "vocab_size": VOCAB,
}  # fmt: skip
SDAR = {
    "architectures": ["SDARForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig",
                 "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "block_size": 4, "bos_token_id": 83, "eos_token_id": 85, "fuse_cross_entropy": True,
    "head_dim": 16, "hidden_act": "silu", "hidden_size": HIDDEN,
    "initializer_range": 0.02, "intermediate_size": MLP,
    "mask_token_id": 89, "max_position_embeddings": 32768, "max_window_layers": 28,
    "model_type": "sdar", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS, "pad_token_id": 83, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.52.3",
    "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB,
}  # fmt: skip


def random_weights(shapes, dtype=torch.float32, seed=1):
    g = torch.Generator().manual_seed(seed)
    make = lambda shape: torch.randn(shape, generator=g) * 0.2 + (len(shape) == 1)  # noqa: E731
    return {name: make(shape).to(dtype) for name, shape in shapes.items()}


def llada_weights(dtype=torch.float32):
    block = {"q_proj": HIDDEN, "k_proj": HIDDEN, "v_proj": HIDDEN, "attn_out": HIDDEN,
             "ff_proj": MLP, "up_proj": MLP}  # fmt: skip
    top = "model.transformer."
    shapes = {f"{top}{n}.weight": (VOCAB, HIDDEN) for n in ("wte", "ff_out")}
    shapes[f"{top}ln_f.weight"] = (HIDDEN,)
    for i in range(LAYERS):
        here = f"{top}blocks.{i}."
        shapes |= {f"{here}{n}.weight": (rows, HIDDEN) for n, rows in block.items()}
        shapes |= {f"{here}{n}.weight": (HIDDEN,) for n in ("attn_norm", "ff_norm")}
        shapes[f"{here}ff_out.weight"] = (HIDDEN, MLP)
    return random_weights(shapes, dtype)


def qwen_weights(head_dim, bias, norm, tied):
    rows = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        here = f"model.layers.{i}."
        for n, heads in rows.items():
            shapes[f"{here}self_attn.{n}_proj.weight"] = (heads * head_dim, HIDDEN)
            if bias:
                shapes[f"{here}self_attn.{n}_proj.bias"] = (heads * head_dim,)
        shapes[f"{here}self_attn.o_proj.weight"] = (HIDDEN, HEADS * head_dim)
        shapes |= {f"{here}self_attn.{n}_norm.weight": (head_dim,) for n in "qk" if norm}
        shapes |= {f"{here}mlp.{n}_proj.weight": (MLP, HIDDEN) for n in ("gate", "up")}
        shapes[f"{here}mlp.down_proj.weight"] = (HIDDEN, MLP)
        shapes |= {f"{here}{n}_layernorm.weight": (HIDDEN,) for n in ("input", "post_attention")}
    return random_weights(shapes)


def write(folder, config, weights, parts=1):
    """config.json and safetensors, in one file or in parts with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if parts == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    places = {}
    for i in range(parts):
        name = f"model-{i + 1:05}-of-{parts:05}.safetensors"
        mine = dict(list(weights.items())[i::parts])
        save_file(mine, folder / name, {"format": "pt"})
        places |= dict.fromkeys(mine, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def rms(x, weight, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary embedding of [heads, L, D], first half against second half."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] / theta ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attend(q, k, v, theta, mask=None):
    groups = q.shape[0] // k.shape[0]
    k, v = rotate(k, theta).repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    return scaled_dot_product_attention(rotate(q, theta), k, v, attn_mask=mask).transpose(0, 1)


def llada_logits(w, ids, theta=5e5):
    """The LLaDA architecture: OLMo's llama block, no causal mask."""
    top = "model.transformer."
    x = w[f"{top}wte.weight"][ids]
    for i in range(LAYERS):
        p = {n: w[f"{top}blocks.{i}.{n}.weight"] for n in (
            "attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj",
            "up_proj", "ff_out")}  # fmt: skip
        h = rms(x, p["attn_norm"], 1e-5)
        q, k, v = ((h @ p[n].T).unflatten(1, (HEADS, -1)).transpose(0, 1) for n in (
            "q_proj", "k_proj", "v_proj"))  # fmt: skip
        x = x + attend(q, k, v, theta).flatten(1) @ p["attn_out"].T
        h = rms(x, p["ff_norm"], 1e-5)
        x = x + (silu(h @ p["ff_proj"].T) * (h @ p["up_proj"].T)) @ p["ff_out"].T
    return (
        rms(x, w[f"{top}ln_f.weight"], 1e-5) @ w.get(f"{top}ff_out.weight", w[f"{top}wte.weight"]).T
    )


def qwen_logits(w, ids, mask=None, theta=1e6):
    """Qwen2 with biases (Dream) or Qwen3 with head norms (SDAR); mask [L, L] of what is seen."""
    x = w["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        p = {n.removeprefix(f"model.layers.{i}."): t for n, t in w.items()}
        h = rms(x, p["input_layernorm.weight"], 1e-6)
        made = []
        for n, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            y = h @ p[f"self_attn.{n}_proj.weight"].T + p.get(f"self_attn.{n}_proj.bias", 0)
            y = y.unflatten(1, (heads, -1)).transpose(0, 1)
            norm = p.get(f"self_attn.{n}_norm.weight")
            made.append(y if norm is None else rms(y, norm, 1e-6))
        x = x + attend(*made, theta, mask).flatten(1) @ p["self_attn.o_proj.weight"].T
        h = rms(x, p["post_attention_layernorm.weight"], 1e-6)
        gated = silu(h @ p["mlp.gate_proj.weight"].T) * (h @ p["mlp.up_proj.weight"].T)
        x = x + gated @ p["mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(x, w["model.norm.weight"], 1e-6) @ head.T
