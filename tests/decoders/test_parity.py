"""Whole generations, token for token, against published loops on the same model."""

from functools import cache

import published_loops as loops
import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst import zoo
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling
from tokenburst.ref.philox import gumbel, philox4x32
from tokenburst.zoo import sudoku

GEN = 12
FINE = Sampling(numerics="fp64")


class Case:
    """A model, its logits as the loops want them, and prompts."""

    def __init__(self, name, shifted=False):
        if name == "sudoku4":
            self.model, self.mask = zoo.load(name), 0
            _, solved = sudoku.puzzles(4, 3, seed=5, split="test", givens=0)
            self.prompts = [torch.cat([zoo.prompt_ids(name), row[:4]]) for row in solved]
        else:
            self.model, self.mask = tiny_model(name, torch.float32, False), VOCAB - 1
            self.prompts = [prompts(1, n, seed=n)[0][0] for n in (3, 8)]
        self.shifted = shifted

    def logits(self, x):
        with torch.no_grad():
            logits = self.model(x[None]).logits[0].float()
        logits[:, self.mask] = -1e30  # with guidance, too
        return torch.cat([logits[:1], logits[:-1]]) if self.shifted else logits

    def ours(self, policy, prompt, **options):
        decoder = DiffusionDecoder(self.model, policy, mask_id=self.mask, shifted=self.shifted)
        return decoder.generate(prompt[None], gen_length=GEN, **options).sequences[0]


@cache
def case(name, shifted=False):
    return Case(name, shifted)


def noise(length, vocab, seed):
    """j -> [L, V] Gumbel noise of the tokens that step j of a block draws."""
    v, place = torch.arange(vocab), torch.arange(length)[:, None]

    def at(j):
        words = philox4x32(torch.tensor(seed), (v // 4, place, torch.tensor(j), torch.tensor(0)))
        words = torch.stack([w.expand(length, vocab) for w in words])
        return gumbel(words.gather(0, (v % 4).expand(1, length, vocab))[0])

    return at


def chance(length, seed, word):
    """j -> [L] of one word of the noise of positions: random order, revealing, Gumbel."""
    apart = torch.tensor(0xFFFFFFFF)

    def at(j):
        counter = (apart, torch.arange(length), torch.tensor(j), torch.tensor(0))
        drawn = philox4x32(torch.tensor(seed), counter)[word]
        return gumbel(drawn) if word == 2 else (drawn >> 8) / 2**24

    return at


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


# What is sure differs: sudoku4 is trained, the others are random and less than half sure.
RULES = {
    "threshold": lambda t: (u.Threshold(t), loops.threshold(t)),
    "strict": lambda t: (u.Threshold(t, strict=True), loops.threshold(t, strict=True)),
    "slack": lambda t: (u.Threshold(t, slack=1e-5), loops.threshold(t, slack=1e-5)),
    "factor": lambda t: (u.Factor(2 - 1.8 * t), loops.factor(2 - 1.8 * t)),
    "factor-published": lambda t: (
        u.Factor(2 - 1.8 * t, last_too=True),
        loops.factor(2 - 1.8 * t, published=True),
    ),
    "entropy": lambda t: (u.Threshold(3 - 3 * t, "entropy"), loops.entropy(3 - 3 * t)),
    "entropy-budget": lambda t: (u.EntropyBudget(3 - 3 * t), loops.entropy_budget(3 - 3 * t)),
    "local-leap": lambda t: (u.LocalLeap(t, 0.7 * t, 2), loops.local_leap(t, 0.7 * t, 2)),
    "sdar": lambda t: (u.sdar_dynamic(t, 6), loops.quota(t, 3)),
    "llada2": lambda t: (u.llada2(t, 12), loops.quota(t, 6)),
    "klass": lambda t: (
        u.Stable(t / 2, 1.0, 2, k=VOCAB, ahead=True),
        loops.klass(t / 2, 1.0, 2),
    ),
    "credit": lambda t: (
        u.Credit(u.Threshold(t, slack=1e-5)),
        loops.credit(t, 0.7, 0.2, 0.8),
    ),
    "eoser": lambda t: (
        u.EosDamping(u.LowConfidence(12), (2,)),
        loops.damped(2, 0.4, 6, lambda j: 1, lambda j: j / 5),
    ),
}


@pytest.mark.parametrize("sampling", [Sampling(), FINE], ids=["fp32", "fp64"])
@pytest.mark.parametrize(("name", "sure"), [("sudoku4", 0.7), ("qwen2", 0.25), ("llama", 0.12)])
@pytest.mark.parametrize("rule", RULES)
def test_rules_over_blocks(rule, name, sure, sampling):
    c = case(name)
    policy, published = RULES[rule](sure)
    for prompt in c.prompts:
        want = loops.by_blocks(c.logits, prompt, GEN, 6, published, mask=c.mask)
        got = c.ours(policy, prompt, block_length=6, sampling=sampling)
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_ascending_steps_with_damped_ends(name):
    c = case(name)  # 12 tokens: 1, 2 and the other 9
    policy = u.EosDamping(u.Ascending(), (2,), least=0.01)
    published = loops.damped(2, 0.01, 3, lambda j: 2**j, lambda j: (2 ** (j + 1) - 1) / GEN)
    for prompt in c.prompts:
        want = loops.by_blocks(c.logits, prompt, GEN, GEN, published, mask=c.mask)
        assert c.ours(policy, prompt).tolist() == want.tolist()


@pytest.mark.parametrize("block", [4, 12])
@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_prophet(name, block):
    c, offsets = case(name), (7, 8, 9, 10, 11)
    for prompt in c.prompts:
        answer = torch.tensor(offsets) + len(prompt)
        want = loops.by_blocks(
            c.logits, prompt, GEN, block, loops.prophet(answer, GEN), mask=c.mask
        )
        got = c.ours(u.Prophet(answer=offsets), prompt, block_length=block)
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize("running", ["last", "most"])
@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_running_confidence(name, running):
    c = case(name)
    for prompt in c.prompts:
        want = loops.running_confidence(
            c.logits, prompt, GEN, 6, 8, most=running == "most", mask=c.mask
        )
        policy = u.RunningConfidence(8, running=running)
        assert c.ours(policy, prompt, block_length=6).tolist() == want.tolist()


@pytest.mark.parametrize(("name", "sure"), [("sudoku4", 0.6), ("qwen2", 0.15)])
def test_editing(name, sure):
    c = case(name)
    for prompt in c.prompts:
        want = loops.edited(c.logits, prompt, GEN, 4, sure, sure, post=5, mask=c.mask)
        policy = u.Editing(u.llada2(sure), threshold=sure, post_steps=5)
        assert c.ours(policy, prompt, block_length=4).tolist() == want.tolist()
