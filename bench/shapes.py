"""The shapes of real models: where the sizes of bench rows come from."""

from typing import NamedTuple


class Shape(NamedTuple):
    """What ops see of a model."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    mask: int | None = None  # token id, of a diffusion model


MODELS = {
    "Llama-2-7B": Shape(32, 4096, 11008, 32, 32, 128, 32000),
    "Llama-3-8B": Shape(32, 4096, 14336, 32, 8, 128, 128256),
    "Qwen2.5-7B": Shape(28, 3584, 18944, 28, 4, 128, 152064),
    "LLaDA-8B": Shape(32, 4096, 12288, 32, 32, 128, 126464, 126336),
    "Dream-7B": Shape(28, 3584, 18944, 28, 4, 128, 152064, 151666),
}
CAUSAL = "Llama-2-7B", "Llama-3-8B", "Qwen2.5-7B"
DIFFUSION = "LLaDA-8B", "Dream-7B"
CONTEXTS = 512, 4096, 16384, 65536
BATCHES = 1, 8, 64
