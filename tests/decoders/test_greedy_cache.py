"""GreedyCache against its definition: full forwards whose other keys are those of before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_caches import Substituting
from transformers.cache_utils import Cache

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.caches import GreedyCache, nearest
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import Ascending, LowConfidence, Threshold
from tokenburst.models.cache import cache_argument
from tokenburst.ref.philox import philox4x32

MASK = VOCAB - 1
PROMPT, GEN, BLOCK, SEED = 7, 16, 8, 3


def window(of, among, count):
    """The published walk: one to the left, one to the right, until enough masks are found."""
    found, left, right, turn = set(), of - 1, of + 1, 0
    while len(found) < count and (left >= 0 or right <= max(among, default=0)):
        at, turn = (left, right)[turn], 1 - turn
        left, right = (left - 1, right) if turn else (left, right + 1)
        found |= {at} & among
    return found


def order(step, length):
    """All positions by the random ranking of a step."""
    at = torch.arange(length)
    words = philox4x32(torch.tensor(SEED), (torch.tensor(0xFFFFFFFF), at, torch.tensor(step), 0))
    return sorted(range(length), key=lambda i: (-(int(words[0][i]) >> 8), i))


def oracle(model, prompt, cache, per_step, shift):
    x = torch.cat([prompt, torch.full((GEN,), MASK)])
    layers = [Substituting() for _ in range(model.config.num_hidden_layers)]
    decided, computed = set(), []
    for begin in range(len(prompt), len(x), BLOCK):
        step = 0
        while MASK in x[begin : begin + BLOCK]:
            masks = {i for i in range(len(x)) if x[i] == MASK}
            block = [i for i in order(step, len(x)) if begin <= i < begin + BLOCK and i in masks]
            now = set(block[:per_step])
            fed = now | decided | {i - shift for i in now}
            for i in now:
                fed |= window(i, masks - now, cache.window)
            if step == 0 or (cache.refresh and step % cache.refresh == 0):
                fed = set(range(len(x)))
            computed.append(len(fed))
            for layer in layers:
                layer.fed = torch.tensor([i in fed for i in range(len(x))])[:, None]
            with torch.no_grad():
                out = model(x[None], use_cache=True, **cache_argument(model, Cache(layers=layers)))
            logits = out.logits[0].roll(shift, 0)
            logits[:, MASK] = -torch.inf
            for i in now:
                x[i] = logits[i].argmax()
            decided, step = now, step + 1
    return x, computed


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cache", [GreedyCache(), GreedyCache(1, None), GreedyCache(0, 3)], ids=str)
@pytest.mark.parametrize("per_step", [1, 3])
def test_it_is_what_its_definition_says(cache, shift, per_step):
    model, widths = tiny_model("llama", torch.float32, False), []
    ids, _ = prompts(1, PROMPT, seed=1)
    want, computed = oracle(model, ids[0], cache, per_step, shift)
    policy = LowConfidence(ranking="random", tokens_per_step=per_step)
    decoder = DiffusionDecoder(model, policy, cache=cache, mask_id=MASK, shifted=bool(shift))
    watch = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    got = decoder.generate(ids, gen_length=GEN, block_length=BLOCK, seed=SEED)
    watch.remove()
    assert got.sequences[0].tolist() == want.tolist()
    assert widths == [min(-(-n // 4) * 4, 24) for n in computed]


def test_refresh_in_every_step_is_no_cache_bit_for_bit():
    model = tiny_model("qwen2", torch.bfloat16, False)
    ids, mask = prompts(3, PROMPT, seed=2, ragged=True)
    outs = [
        DiffusionDecoder(
            model, LowConfidence(ranking="random"), cache=cache, mask_id=MASK
        ).generate(ids, mask, gen_length=GEN, block_length=BLOCK, seed=SEED)
        for cache in (None, GreedyCache(refresh=1))
    ]
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    assert outs[0].stats.steps == outs[1].stats.steps


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "guidance": 0.5}], ids=str)
def test_a_batch_equals_its_rows_alone(options):
    policy = LowConfidence(ranking="random") | Ascending("random")
    model = tiny_model("qwen3", torch.float32, False)
    decoder = DiffusionDecoder(model, policy, cache=GreedyCache(2, 3), mask_id=MASK)
    ids, mask = prompts(4, PROMPT, seed=3, ragged=True)
    blocks, names = torch.tensor([4, 8, 2, 8]), torch.arange(4) + 5
    together = decoder.generate(
        ids, mask, gen_length=GEN, block_length=blocks, sequence_ids=names, **options
    )
    new = together.sequences[:, PROMPT:]
    assert torch.equal(together.sequences[:, :PROMPT], ids) and not bool((new == MASK).any())
    assert together.stats.new_tokens == [GEN] * 4
    for b in range(4):
        alone = decoder.generate(
            ids[b : b + 1, mask[b] == 1],
            gen_length=GEN,
            block_length=int(blocks[b]),
            sequence_ids=names[b : b + 1],
            **options,
        )
        assert alone.sequences[0, -GEN:].tolist() == new[b].tolist()
        steps = [n for n in together.stats.steps[b] if n]
        assert alone.stats.steps[0] == steps


@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(st.sampled_from("ofx"), min_size=1, max_size=14), count=st.integers(1, 5))
def test_the_nearest_are_found_as_the_published_walk_finds_them(kinds, count):
    of, among = ({i for i, kind in enumerate(kinds) if kind == k} for k in "of")
    rows = [torch.tensor([[i in group for i in range(len(kinds))]]) for group in (of, among)]
    want = set().union(*(window(i, among, count) for i in of))
    assert set(nearest(*rows, count)[0].nonzero()[:, 0].tolist()) == want


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GreedyCache(window=-1), "GreedyCache: window: expected an integer >= 0, got -1"),
        (lambda: GreedyCache(refresh=0), "GreedyCache: refresh: expected an integer >= 1, got 0"),
        (lambda: build(Threshold()), "expected an order that is random, got Threshold"),
        (lambda: build(LowConfidence()), "expected an order that is random, got LowConfidence"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def build(policy):
    model = tiny_model("llama", torch.float32, False)
    return DiffusionDecoder(model, policy, cache=GreedyCache(), mask_id=MASK)
