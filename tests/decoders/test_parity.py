"""Whole generations, token for token, against published loops on the same model."""

import published_loops as loops
import pytest
import torch
from parity import GEN, case, chance, noise

from tiny import VOCAB
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.reading import Sampling

LLADA = {
    "one-block": {"block": 12, "steps": 12},
    "semi-autoregressive": {"block": 4, "steps": 6},
    "spare-steps": {"block": 4, "steps": 24},
    "guided": {"block": 4, "steps": 6, "cfg": 1.5},
    "random": {"block": 6, "steps": 6, "random": True},
    "drawn": {"block": 4, "steps": 6, "temperature": 0.9},
    "drawn-guided-random": {
        "block": 4, "steps": 6, "temperature": 0.9, "cfg": 0.7, "random": True,
    },
    "ends-unranked": {"block": 4, "steps": 6, "conf_inf": (1, 2)},
    "one-end-unranked-drawn": {"block": 4, "steps": 6, "conf_inf": (2,), "temperature": 0.9},
    "fp64": {"block": 4, "steps": 6, "dtype": torch.float64},
    "bf16": {"block": 4, "steps": 6, "dtype": torch.bfloat16},
}  # fmt: skip


@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
@pytest.mark.parametrize("options", LLADA.values(), ids=LLADA)
def test_llada_generate(options, name):
    options, c, seed = dict(options), case(name), 7
    random = options.pop("random", False)
    numerics = {torch.float64: "fp64", torch.bfloat16: "bf16"}.get(options.get("dtype"), "fp32")
    sampling = Sampling(unranked=options.get("conf_inf", ()), numerics=numerics)
    policy = u.LowConfidence(options["steps"], "random" if random else "confidence")
    for prompt in c.prompts:
        length, vocab = len(prompt) + GEN, c.model.config.vocab_size
        draws = noise(length, vocab, seed)
        want = loops.llada(
            c.logits, prompt, GEN, **options, mask=c.mask,
            noise=lambda j, draws=draws: (-draws(j).double()).exp(),
            order=chance(length, seed, 0) if random else None,
        )  # fmt: skip
        got = c.ours(
            policy, prompt, block_length=options["block"], seed=seed, sampling=sampling,
            temperature=options.get("temperature", 0.0), guidance=options.get("cfg", 0.0),
        )  # fmt: skip
        assert got.tolist() == want.tolist()


DREAM = {
    "greedy": {"steps": 8},
    "as-many-steps-as-tokens": {"steps": 12},
    "drawn": {"steps": 6, "temperature": 0.4, "top_p": 0.95},
    "drawn-top-k": {"steps": 6, "temperature": 0.9, "top_p": 0.9, "top_k": 3},
    "alg-temp": {"steps": 6, "temperature": 0.4, "alg_temp": 0.5},
}
ORDERS = ("origin", "maskgit_plus", "topk_margin", "entropy")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", DREAM.values(), ids=DREAM)
def test_dream_diffusion_generate(options, order):
    c, seed, options = case("qwen2", True), 3, dict(options)
    steps, heat = options.pop("steps"), options.pop("temperature", 0.0)
    sampling = Sampling(top_p=options.get("top_p", 1.0), top_k=options.get("top_k", 0))
    policy = u.Dream(steps, order, noise=options.get("alg_temp", 0.0))
    for prompt in c.prompts:
        length = len(prompt) + GEN
        want = loops.dream(
            c.logits, prompt, GEN, steps, order, temperature=heat, **options,
            gumbel=noise(length, VOCAB, seed),
            chance=chance(length, seed, 1 if order == "origin" else 2),
        )  # fmt: skip
        got = c.ours(policy, prompt, temperature=heat, seed=seed, sampling=sampling)
        assert got.tolist() == want.tolist()


def test_diffucoder_recipe():
    c, per_step = case("qwen2", True), 2
    steps, recipe = GEN // per_step, {"temperature": 0.3, "top_p": 0.95}
    for prompt in c.prompts:
        draws = noise(len(prompt) + GEN, VOCAB, 1)
        want = loops.dream(c.logits, prompt, GEN, steps, "entropy", gumbel=draws, **recipe)
        sampling = Sampling(top_p=0.95)
        got = c.ours(u.Dream(steps), prompt, temperature=0.3, seed=1, sampling=sampling)
        assert got.tolist() == want.tolist()
