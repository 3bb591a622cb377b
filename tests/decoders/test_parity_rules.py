"""Rules over blocks, token for token, against published loops on the same model."""

import published_loops as loops
import published_rules as published
import pytest
import torch
from parity import GEN, case

from tiny import VOCAB
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.reading import Sampling

# What is sure differs: sudoku4 is trained, the others are random and less than half sure.
RULES = {
    "threshold": lambda t: (u.Threshold(t), published.threshold(t)),
    "strict": lambda t: (u.Threshold(t, strict=True), published.threshold(t, strict=True)),
    "slack": lambda t: (u.Threshold(t, slack=1e-5), published.threshold(t, slack=1e-5)),
    "factor": lambda t: (u.Factor(2 - 1.8 * t), published.factor(2 - 1.8 * t)),
    "factor-published": lambda t: (
        u.Factor(2 - 1.8 * t, last_too=True),
        published.factor(2 - 1.8 * t, published=True),
    ),
    "entropy": lambda t: (u.Threshold(3 - 3 * t, "entropy"), published.entropy(3 - 3 * t)),
    "entropy-budget": lambda t: (u.EntropyBudget(3 - 3 * t), published.entropy_budget(3 - 3 * t)),
    "local-leap": lambda t: (u.LocalLeap(t, 0.7 * t, 2), published.local_leap(t, 0.7 * t, 2)),
    "sdar": lambda t: (u.sdar_dynamic(t, 6), published.quota(t, 3)),
    "llada2": lambda t: (u.llada2(t, 12), published.quota(t, 6)),
    "klass": lambda t: (
        u.Stable(t / 2, 1.0, 2, k=VOCAB, ahead=True),
        published.klass(t / 2, 1.0, 2),
    ),
    "credit": lambda t: (
        u.Credit(u.Threshold(t, slack=1e-5)),
        published.credit(t, 0.7, 0.2, 0.8),
    ),
    "eoser": lambda t: (
        u.EosDamping(u.LowConfidence(12), (2,)),
        published.damped(2, 0.4, 6, lambda j: 1, lambda j: j / 5),
    ),
}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(numerics="fp64")], ids=["fp32", "fp64"])
@pytest.mark.parametrize(("name", "sure"), [("sudoku4", 0.7), ("qwen2", 0.25), ("llama", 0.12)])
@pytest.mark.parametrize("rule", RULES)
def test_rules_over_blocks(rule, name, sure, sampling):
    c = case(name)
    policy, oracle = RULES[rule](sure)
    for prompt in c.prompts:
        want = loops.by_blocks(c.logits, prompt, GEN, 6, oracle, mask=c.mask)
        got = c.ours(policy, prompt, block_length=6, sampling=sampling)
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_ascending_steps_with_damped_ends(name):
    c = case(name)  # 12 tokens: 1, 2 and the other 9
    policy = u.EosDamping(u.Ascending(), (2,), least=0.01)
    oracle = published.damped(2, 0.01, 3, lambda j: 2**j, lambda j: (2 ** (j + 1) - 1) / GEN)
    for prompt in c.prompts:
        want = loops.by_blocks(c.logits, prompt, GEN, GEN, oracle, mask=c.mask)
        assert c.ours(policy, prompt).tolist() == want.tolist()


@pytest.mark.parametrize("order", ["maskgit_plus", "topk_margin", "entropy", "autoregressive"])
@pytest.mark.parametrize(("name", "sure"), [("sudoku4", 0.8), ("qwen2", 0.4)])
def test_dimple(name, sure, order):
    c = case(name)
    for prompt in c.prompts:
        oracle = published.dimple(sure, 8, order)
        want = loops.by_blocks(c.logits, prompt, GEN, GEN, oracle, mask=c.mask)
        assert c.ours(u.Dimple(sure, 8, order), prompt).tolist() == want.tolist()


@pytest.mark.parametrize("block", [4, 12])
@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_prophet(name, block):
    c, offsets = case(name), (7, 8, 9, 10, 11)
    for prompt in c.prompts:
        answer = torch.tensor(offsets) + len(prompt)
        want = loops.by_blocks(
            c.logits, prompt, GEN, block, published.prophet(answer, GEN), mask=c.mask
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
