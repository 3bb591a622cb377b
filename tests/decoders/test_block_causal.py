"""Block-causal models: the published procedure by full forwards, and its exact cache."""

from functools import cache

import pytest
import torch

from tiny import VOCAB, Watching, prompts, tiny_model
from tokenburst.decoders.caches import BlockCausalCache, DualCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import LowConfidence, Threshold

MASK, BLOCK = VOCAB - 1, 4


@cache
def model(dtype=torch.float32, family="qwen3"):
    made = tiny_model(family, dtype, False)
    copy = type(made)(type(made.config)(**made.config.to_dict())).to(dtype).eval()
    copy.load_state_dict(made.state_dict())
    copy.config.block_causal, copy.config.block_length = True, BLOCK
    return copy


def oracle(prompt, gen_length, per_step):
    """Blocks at multiples of BLOCK, each sees itself and what stands before it."""
    total = -(-(len(prompt) + gen_length) // BLOCK) * BLOCK
    x = torch.cat([prompt, torch.full((total - len(prompt),), MASK)])
    block = torch.arange(total) // BLOCK
    seen, forwards = block[None, :] <= block[:, None], 0
    for begin in range(len(prompt) // BLOCK * BLOCK, total, BLOCK):
        here = range(begin, begin + BLOCK)
        while MASK in x[begin : begin + BLOCK]:
            with torch.no_grad():
                logits = model()(x[None], attention_mask=seen[None, None]).logits[0]
            forwards += 1
            logits[:, MASK] = -torch.inf
            best, token = logits.softmax(-1).max(-1)
            masks = [i for i in here if x[i] == MASK]
            masks.sort(key=lambda i: (-float(best[i]), i))
            for i in masks[:per_step]:
                x[i] = token[i]
    return x[: len(prompt) + gen_length], forwards


@pytest.mark.parametrize("length", [3, 8, 10])
@pytest.mark.parametrize("kv", [None, BlockCausalCache()], ids=str)
def test_the_published_procedure(length, kv):
    ids, _ = prompts(1, length, seed=1)
    decoder = DiffusionDecoder(model(), LowConfidence(tokens_per_step=2), cache=kv, mask_id=MASK)
    got = decoder.generate(ids, gen_length=11)
    want, forwards = oracle(ids[0], 11, 2)
    assert got.sequences[0].tolist() == want.tolist()
    assert got.stats.forwards == forwards and got.stats.new_tokens == [11]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_is_exact_bit_for_bit_alone_and_in_a_batch(dtype):
    ids, mask = prompts(4, 9, seed=2, ragged=True)
    runs = []
    for kv in (None, BlockCausalCache()):
        policy = Watching(Threshold(0.2))
        decoder = DiffusionDecoder(model(dtype), policy, cache=kv, mask_id=MASK)
        out = decoder.generate(ids, mask, gen_length=10)
        runs.append((out, policy.seen.copy()))
        for b in range(4):
            alone = decoder.generate(ids[b : b + 1, mask[b] == 1], gen_length=10)
            assert alone.sequences[0, -10:].tolist() == out.sequences[b, -10:].tolist()
            assert sum(alone.stats.steps[0]) == sum(out.stats.steps[b])
    (plain, hidden), (cached, hidden_cached) = runs
    assert torch.equal(plain.sequences, cached.sequences)
    assert plain.stats.steps == cached.stats.steps
    assert len(hidden) == len(hidden_cached) > 3
    assert all(map(torch.equal, hidden, hidden_cached))


def test_infilling_goes_block_by_block():
    ids, mask = prompts(2, 14, seed=3, ragged=True)
    ids[:, 2] = ids[:, 5] = ids[:, 11] = ids[:, 13] = MASK
    outs = []
    for kv in (None, BlockCausalCache()):
        decoder = DiffusionDecoder(model(), LowConfidence(), cache=kv, mask_id=MASK)
        outs.append(decoder.infill(ids, mask))
    masks = (ids == MASK) & (mask == 1)
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    assert not bool((outs[0].sequences[masks] == MASK).any())
    assert outs[1].stats.new_tokens == masks.sum(1).tolist()


def test_what_does_not_fit_a_block_causal_model_is_refused():
    ids, _ = prompts(1, 3, seed=1)
    with pytest.raises(ValueError, match=r"DualCache.* is not for a block-causal model"):
        DiffusionDecoder(model(), cache=DualCache(), mask_id=MASK)
    plain = tiny_model("qwen3", torch.float32, False)
    with pytest.raises(ValueError, match="is not for a bidirectional model"):
        DiffusionDecoder(plain, cache=BlockCausalCache(), mask_id=MASK)
    with pytest.raises(ValueError, match="block_length: expected None or 4, the model's, got 8"):
        DiffusionDecoder(model(), mask_id=MASK).generate(ids, gen_length=8, block_length=8)
    everything = Watching(Threshold(0.2), sequence=True)
    with pytest.raises(ValueError, match="sees the current block alone"):
        DiffusionDecoder(model(), everything, mask_id=MASK)
    window = tiny_model("mistral", torch.float32, False, 8)
    with pytest.raises(ValueError, match="expected None for sliding windows"):
        DiffusionDecoder(window, cache=DualCache(), mask_id=MASK)
