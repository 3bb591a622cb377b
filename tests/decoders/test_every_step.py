"""In every step of every rule nothing waits, nothing large is made, and something is won."""

import itertools

import pytest
import torch
from test_rules_batches import MASK, POLICIES
from torch.utils._python_dispatch import TorchDispatchMode

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import (
    DelayedCache,
    DualCache,
    FreeCache,
    GreedyCache,
    PrefixCache,
)
from tokenburst.decoders.diffusion import DiffusionDecoder

EVERY = POLICIES | {
    "threshold": u.Threshold(0.3),
    "llada": u.LowConfidence(6),
    "learned": u.Learned(lambda c: (c * 3).clamp(max=1)),
    "ending": u.EndOfText(u.Threshold(0.2), (3, 17, 40), 0.12),
    "random": u.LowConfidence(ranking="random"),
}
# They wait for their time, or take tokens back and replace them, for which a forward is needed.
PATIENT = {n for n, policy in EVERY.items() if policy.needs.pauses} - {"wino"}
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"}


class Ops(TorchDispatchMode):
    """What runs inside, and the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.names, self.most = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        held = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in held:
            self.most = max(self.most, out.numel())
        return out


class Watched:
    """A policy whose steps are watched."""

    def __init__(self, policy):
        self.policy, self.needs, self.ops = policy, policy.needs, Ops()
        self.most_steps = policy.most_steps

    def begin(self, plan):
        self.process = self.policy.begin(plan)
        return self

    @property
    def lengths(self):
        return self.process.lengths

    def select(self, step):
        with self.ops:
            return self.process.select(step)


def decode(policy, cache=None):
    model = tiny_model("qwen2", torch.float32, False)
    ids, mask = prompts(3, 7, seed=3, ragged=True)
    decoder = DiffusionDecoder(model, policy, cache=cache, mask_id=MASK)
    return decoder.generate(ids, mask, gen_length=6, block_length=3, trace=True, seed=5)


def wins(out):
    """Every forward of a row commits a token of it, and none comes after its last one."""
    ran = torch.stack([(s.position >= 0).any(1) for s in out.stats.trace])
    won = torch.stack([s.committed.any(1) for s in out.stats.trace])
    assert torch.equal(ran, won)
    assert out.stats.forwards == max(map(sum, out.stats.steps)) == len(ran)
    assert ran.sum(0).tolist() == [sum(steps) for steps in out.stats.steps]


@pytest.mark.parametrize("name", EVERY)
def test_a_step_waits_for_nothing_copies_no_logits_and_commits(name):
    watched = Watched(EVERY[name])
    out = decode(watched)
    assert watched.ops.names and not watched.ops.names & WAITS
    assert watched.ops.most < 3 * 3 * VOCAB
    if name not in PATIENT:
        wins(out)


CACHES = [PrefixCache(), DualCache(1), DelayedCache(3), FreeCache(8)]
PAIRS = [(name, CACHES[i % 4]) for i, name in enumerate(sorted({*EVERY} - PATIENT - {"wino"}))]


@pytest.mark.parametrize(("name", "cache"), [*PAIRS, ("random", GreedyCache())], ids=str)
def test_no_forward_with_a_cache_commits_nothing(name, cache):
    wins(decode(EVERY[name], cache))


@pytest.mark.parametrize("policy", [u.Dream(24, "origin"), u.ReMDM(24, eta=0.02)], ids=str)
def test_a_step_that_chance_lets_pass_runs_no_forward(policy):
    model = tiny_model("qwen2", torch.float32, False)
    ids, mask = prompts(3, 7, seed=3, ragged=True)
    options = {"gen_length": 6, "block_length": 3, "seed": 5, "temperature": 0.7, "guidance": 0.5}
    decoder = DiffusionDecoder(model, policy, mask_id=MASK)
    steps, names = [], torch.arange(3)
    out = decoder.generate(
        ids, mask, sequence_ids=names, callback=lambda n, x: steps.append(x.clone()), **options
    )
    every = DiffusionDecoder(model, policy, cache=PrefixCache(refresh=1), mask_id=MASK)
    want = every.generate(ids, mask, sequence_ids=names, **options)
    assert torch.equal(out.sequences, want.sequences) and len(steps) == want.stats.forwards
    changes = sum(not torch.equal(a, b) for a, b in itertools.pairwise(steps))
    assert out.stats.forwards <= 2 + changes < len(steps)
    for b in range(3):
        row = ids[b : b + 1, mask[b] == 1]
        alone = decoder.generate(row, sequence_ids=names[b : b + 1], **options)
        assert alone.sequences[0, -6:].tolist() == out.sequences[b, -6:].tolist()
        assert alone.stats.steps[0] == out.stats.steps[b]
        assert alone.stats.forwards == sum(out.stats.steps[b])
