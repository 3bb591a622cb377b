"""Tiny random models and prompts for decoder tests."""

from functools import cache

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from tokenburst.decoders.unmasking.policy import Needs

CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
FAMILIES = tuple(CONFIGS)
VOCAB = 64


@cache
def tiny_model(
    family: str, dtype: torch.dtype, is_causal: bool = True, window: int | None = None
) -> torch.nn.Module:
    """A random model of a stock class: GQA, 3 layers, head dim 16, a vocabulary of 64.

    With a window, Qwen's middle layer sees everything; all layers of Mistral slide.
    """
    sliding = {"sliding_window": window}
    if window and family != "mistral":
        sliding["use_sliding_window"] = True
        sliding["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    config = CONFIGS[family](
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        is_causal=is_causal,
        initializer_range=0.2,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
        **(sliding if family != "llama" else {}),
    )
    torch.manual_seed(11)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


class Watching:
    """An unmasking policy that also keeps the hidden states of all masks of each step."""

    def __init__(self, policy, **needs):
        self.policy, self.seen = policy, []
        self.needs = policy.needs | Needs(hidden=True, **needs)

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def begin(self, plan):
        self.process = self.policy.begin(plan)
        self.seen.clear()
        return self

    def select(self, step):
        self.seen.append(step.hidden[step.masked])
        return self.process.select(step)


def prompts(batch: int, length: int, seed: int, ragged: bool = False):
    """Random ids [B, P] below VOCAB - 1 and their mask; ragged rows are padded on the left."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB - 1, (batch, length), generator=g)
    mask = torch.ones_like(ids)
    if ragged:
        for row in range(1, batch):
            cut = int(torch.randint(0, length, (1,), generator=g))
            ids[row, :cut], mask[row, :cut] = VOCAB - 1, 0
    return ids, mask
