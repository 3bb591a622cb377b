"""KV caches of diffusion decoding: our share of a step, forwards per second.

Run as `python bench/caches.py`; prints Markdown. What they solve: `quality_caches.py`.
"""

import argparse
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness import circumstances
from tokenburst import (
    BlockCausalCache,
    DelayedCache,
    DiffusionDecoder,
    DualCache,
    FreeCache,
    GreedyCache,
    LowConfidence,
    PrefixCache,
)

CACHES = (None, PrefixCache(), DualCache(), DualCache(vicinity=16), DelayedCache(), FreeCache())
PROMPT, GEN, BLOCK, VOCAB = 256, 128, 32, 32000


def random_model(block_causal: bool = False) -> LlamaForCausalLM:
    """12 layers of width 384: deep enough that a step's fixed work weighs as it does in use."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=384, intermediate_size=1024, num_hidden_layers=12,
        num_attention_heads=6, is_causal=False, mask_token_id=VOCAB - 1, eos_token_id=None,
        block_causal=block_causal, block_length=BLOCK,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


class Clock:
    """Seconds spent inside some modules."""

    seconds = 0.0

    def watch(self, *parts: torch.nn.Module) -> None:
        for part in parts:
            part.register_forward_pre_hook(self.start)
            part.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        self.began = time.perf_counter()

    def stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began


def speed() -> None:
    print(f"\nPrompt {PROMPT}, {GEN} tokens in blocks of {BLOCK}, 4 tokens a forward, fp32:\n")
    print("| cache | forwards | seconds | forwards/s | tokens/s | model's share | ours |")
    print("|---|---|---|---|---|---|---|")
    ids = torch.randint(0, VOCAB - 1, (1, PROMPT))
    for causal, caches in (
        (False, (*CACHES, GreedyCache(refresh=8))),
        (True, (None, BlockCausalCache())),
    ):
        model, clock = random_model(causal), Clock()
        clock.watch(model.model, model.lm_head)
        for cache in caches:
            order = "random" if isinstance(cache, GreedyCache) else "confidence"
            policy = LowConfidence(ranking=order, tokens_per_step=4)
            decoder = DiffusionDecoder(model, policy, cache=cache)
            decoder.generate(ids, gen_length=BLOCK, block_length=BLOCK)
            best = None
            for _ in range(2):
                clock.seconds = 0.0
                out = decoder.generate(ids, gen_length=GEN, block_length=BLOCK)
                now = out.stats.seconds, clock.seconds, out.stats.forwards
                best = now if best is None else min(best, now)
            seconds, inside, forwards = best
            kind = "block-causal model, " if causal else ""
            print(
                f"| {kind}{cache} | {forwards} | {seconds:.2f} | {forwards / seconds:.1f} | "
                f"{GEN / seconds:.1f} | {inside / seconds:.1%} | {1 - inside / seconds:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(circumstances(torch.device("cpu")))
    speed()
