"""The policy protocol: unions, policies with memory, blocks that are skipped."""

from dataclasses import dataclass

import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import LowConfidence, Needs, Threshold, Union

MASK = VOCAB - 1


def generate(policy, **options):
    ids, mask = prompts(3, 5, seed=1, ragged=True)
    model = tiny_model("llama", torch.float32, False)
    decoder = DiffusionDecoder(model, policy, mask_id=MASK)
    return decoder.generate(ids, mask, gen_length=12, block_length=4, **options)


def test_a_union_commits_what_the_bolder_rule_would():
    two = LowConfidence(tokens_per_step=2)
    never, always = Threshold(1.0), Threshold(1e-9)
    assert torch.equal(generate(two | never).sequences, generate(two).sequences)
    assert generate(two | always).stats.steps == [[1, 1, 1]] * 3
    assert generate(Threshold(0.9) | Threshold(1e-9)).stats.steps == [[1, 1, 1]] * 3
    entropy = Threshold(1e-9, "entropy") | Threshold(1e9, "entropy")
    assert generate(entropy).stats.steps == [[1, 1, 1]] * 3
    with pytest.raises(ValueError, match="expected rules of one ranking"):
        Union((two, Threshold(0.5, "margin")))
    with pytest.raises(ValueError, match="multiple of the 3 blocks, got 4"):
        generate(LowConfidence(steps=4))


@dataclass(frozen=True)
class Everything:
    """Commits all masks of the whole sequence in its second step."""

    needs = Needs(k=3, sequence=True, decided=True, hidden=True, pauses=True)

    def begin(self, plan):
        return Asked()

    def most_steps(self, n_masks, n_blocks):
        return n_masks


class Asked:
    def __init__(self):
        self.times = 0

    def select(self, step):
        self.times += 1
        batch, width = step.position.shape
        assert step.stats.ids.shape == (batch, width, 3) and width == 12
        assert step.hidden.shape == (batch, width, 64)
        assert bool((step.stats.confidence > 0).all())
        torch.testing.assert_close(step.logits_at(step.stats.ids), step.stats.values)
        assert bool((step.current.sum(1) == 4).all())
        flag = torch.full((batch,), self.times > 1)
        return step.select(score=step.stats.confidence, commit_all=flag)


def test_a_policy_may_see_everything_and_blocks_without_masks_cost_nothing():
    out = generate(Everything())
    # The second step reads what the first one, which changed nothing, had computed.
    assert out.stats.forwards == 1 and out.stats.new_tokens == [12] * 3
    assert out.stats.steps == [[1, 0, 0]] * 3
    assert not bool((out.sequences[:, 5:] == MASK).any())
