"""ReMDM step by step against its formulas, with the same chance."""

import pytest
import torch
from steps import MASK as M
from steps import make_plan, make_step

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.ref.philox import philox4x32

N, STEPS = 300, 40


def alphas(policy, step):
    """alpha(t), alpha(s) and sigma of a step, from the text of the paper and its code."""
    t, s = 1 - step / STEPS, 1 - (step + 1) / STEPS
    if policy.mode == "loop":
        if step + 1 == STEPS:
            return None, 1.0, 0.0
        if t > policy.on + 1e-9:
            slope = policy.alpha / (1 - policy.on)
            return (1 - t) * slope, min(1.0, (1 - s) * slope), 0.0
        if t <= policy.off + 1e-9:
            slope = (1 - policy.alpha) / policy.off
            return 1 - t * slope, 1 - s * slope, 0.0
        return policy.alpha, policy.alpha, policy.eta
    most = min(1.0, s / (1 - t)) if t < 1 else 1.0
    return 1 - t, 1 - s, min(policy.eta, most) if policy.mode == "cap" else policy.eta * most


@pytest.mark.parametrize(
    "policy",
    [
        u.ReMDM(STEPS, "cap", eta=0.05),
        u.ReMDM(STEPS, "rescale", eta=0.1),
        u.ReMDM(STEPS, "loop", eta=0.05),
        u.ReMDM(STEPS, "loop", eta=0.3, on=0.8, off=0.3, alpha=0.7),
    ],
    ids=str,
)
def test_every_step_reveals_and_takes_back_what_its_formulas_say(policy):
    process, masked, returned = policy.begin(make_plan(N)), torch.ones(N, dtype=torch.bool), 0
    for j in range(STEPS):
        step = make_step([0.5] * N, masked.tolist(), step=j)
        done = process.select(step)
        now, then, sigma = alphas(policy, j)
        reveal = 1.0 if then == 1.0 else (then - (1 - sigma) * now) / (1 - now)
        apart = torch.tensor(0xFFFFFFFF)
        words = philox4x32(
            torch.tensor(1), (apart, torch.arange(N), torch.tensor(j), torch.tensor(0))
        )
        shown, back = ((words[i] >> 8).double() / 2**24 for i in (1, 3))
        goes = ~masked & (back < sigma)
        masked = (masked & (shown >= reveal)) | goes
        assert torch.equal(step.x[0] == M, masked)
        returned += int(goes.sum())
        if policy.mode == "loop" and policy.off < 1 - j / STEPS <= policy.on:
            assert abs(float((~masked).double().mean()) - policy.alpha) < 0.15
        revises = j + 1 < STEPS * (1 - policy.off if policy.mode == "loop" else 1)
        assert int(done.n_left) == max(int(masked.sum()), int(revises))
    assert not bool(masked.any()) and returned > 20


def test_the_loop_runs_all_its_steps_and_spares_the_prompt():
    policy = u.ReMDM(24, "loop", eta=0.1)
    model = tiny_model("llama", torch.float32, False)
    decoder = DiffusionDecoder(model, policy, mask_id=VOCAB - 1)
    ids, mask = prompts(3, 7, seed=3, ragged=True)
    seen = []
    out = decoder.generate(
        ids, mask, gen_length=8, block_length=4, callback=lambda n, x: seen.append(x)
    )
    assert all(torch.equal(x[:, :7], ids) for x in seen) and out.stats.new_tokens == [8] * 3
    assert not bool((out.sequences[:, 7:] == VOCAB - 1).any())
    assert 22 <= len(seen) <= 24 and out.stats.forwards <= len(seen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: u.ReMDM(mode="best"), "expected one of cap, rescale, conf, loop, got 'best'"),
        (lambda: u.ReMDM(mode="loop", on=0.1, off=0.2), "expected 0 < off < on < 1"),
        (lambda: u.ReMDM(mode="loop", eta=0.5), "expected at most 0.1111 where alpha = 0.9"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
