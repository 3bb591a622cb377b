"""Published loops that ask another network, or judge what is drawn, token for token."""

import published_loops as loops
import pytest
import torch
from parity import GEN, case, noise

from tiny import VOCAB, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.reading import Sampling

MASK = VOCAB - 1


@pytest.mark.parametrize("text", ["diffusion", "supervisor"])
def test_guided_diffusion(text):
    c, causal = case("qwen2"), tiny_model("llama", torch.float32)
    for prompt in c.prompts:
        state = loops.Blocks(prompt, GEN, GEN)
        x = state.x
        while masks := state.left(*state.spans[0]):
            draft = torch.where(x == MASK, c.logits(x).argmax(-1), x)
            with torch.no_grad():
                logits = causal(draft[None]).logits[0]
            logits[:, MASK] = -torch.inf
            own = torch.cat([logits[:1], logits[:-1]]).argmax(-1)  # of each position
            n = next((k for k, i in enumerate(masks) if own[i] != draft[i]), len(masks))
            for i in masks[:n]:
                x[i] = draft[i]
            if n < len(masks) and (text == "supervisor" or n == 0):
                x[masks[n]] = (own if text == "supervisor" else draft)[masks[n]]
        assert c.ours(u.Guided(causal, text), prompt).tolist() == x.tolist()


@pytest.mark.parametrize("name", ["sudoku4", "qwen2"])
def test_learned_filter(name):
    torch.manual_seed(4)
    c, small = case(name), u.ConfidenceFilter(4)
    for layer in small.layers[::2]:
        layer.weight.data *= 4

    def rule(p, masks, j, state):
        block = range(masks[0] - (masks[0] - len(prompt)) % 4, len(state.x))[:4]
        confidence = p.amax(-1)
        with torch.no_grad():
            final = small(confidence[None, block].float())[0]
        passes = [i for i, f in zip(block, final, strict=True) if i in masks and f > 0.5]
        return {*passes, *loops.best(confidence, masks, 1)}

    for prompt in c.prompts:
        want = loops.by_blocks(c.logits, prompt, GEN, 4, rule, mask=c.mask)
        got = c.ours(u.Learned(small, 0.5), prompt, block_length=4)
        assert got.tolist() == want.tolist()


def test_thresholds_of_what_is_drawn():
    """Fast-dLLM on Dream with a temperature: confidences are tempered and filtered."""
    c, options = case("qwen2", True), {"temperature": 0.6, "seed": 3}
    for prompt in c.prompts:
        state = loops.Blocks(prompt, GEN, GEN)
        draws, j = noise(len(state.x), VOCAB, 3), 0
        while masks := state.left(*state.spans[0]):
            kept = loops.nucleus(c.logits(state.x) / 0.6, 0.9, 0)
            token = (kept + draws(j)).argmax(-1)
            q = kept.softmax(-1).gather(1, token[:, None])[:, 0]
            for i in [i for i in masks if q[i] >= 0.5] or loops.best(q, masks, 1):
                state.x[i] = token[i]
            j += 1
        policy, sampling = u.Tempered(u.Threshold(0.5)), Sampling(top_p=0.9)
        assert c.ours(policy, prompt, sampling=sampling, **options).tolist() == state.x.tolist()
