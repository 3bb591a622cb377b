"""Caches: approximate ones against full forwards with substituted keys, exact ones bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import Cache, CacheLayerMixin

from tiny import VOCAB, Watching, prompts, tiny_model
from tokenburst.decoders.caches import DelayedCache, DualCache, FreeCache, PrefixCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import LowConfidence, Threshold
from tokenburst.models.cache import cache_argument

MASK = VOCAB - 1
PROMPT, GEN, BLOCK = 7, 16, 8


class Substituting(CacheLayerMixin):
    """Keys and values of the positions in `fed` are new, the others are as they were."""

    def __init__(self):
        super().__init__()
        self.fed, self.kept = None, None

    def update(self, keys, values, *args, **kwargs):
        new = torch.stack([keys, values])
        self.kept = new if self.kept is None else torch.where(self.fed, new, self.kept)
        return self.kept.unbind(0)

    lazy_initialization = get_max_length = None
    get_seq_length = lambda self: 0  # noqa: E731
    get_mask_sizes = lambda self, n: (n, 0)  # noqa: E731


Substituting.__abstractmethods__ = frozenset()


def definition(cache, begin, end, step, first, x, x_before, length):
    """The positions which the cache computes, from the papers' text."""
    every = set(range(length))
    if first or (cache.refresh if hasattr(cache, "refresh") else None) == 1:
        return every
    match cache:
        case PrefixCache(refresh=n):
            full = step == 0 or (n and step % n == 0)
            return every if full else set(range(begin, length))
        case DualCache(vicinity=v, refresh=n, warmup=w):
            full = step < w or (n and step % n == 0)
            return every if full else every & set(range(begin - v, end + v))
        case DelayedCache(refresh=n):
            full = step <= 1 or (n and step % n == 0)
            return every if full else {i for i in every if x_before[i] == MASK}
        case FreeCache(window=w):
            return every & set(range(begin, length if w is None else begin + w))


def oracle(model, prompt, cache, per_step, shift):
    """Greedy decoding, `per_step` most confident tokens a step, by full forwards of one row."""
    x = torch.cat([prompt, torch.full((GEN,), MASK)])
    layers = [Substituting() for _ in range(model.config.num_hidden_layers)]
    first, before, forwards = True, x.clone(), 0
    for begin in range(len(prompt), len(x), BLOCK):
        block, step = range(begin, begin + BLOCK), 0
        while MASK in x[begin : begin + BLOCK]:
            fed = definition(cache, begin, begin + BLOCK, step, first, x, before, len(x))
            fed |= {i - shift for i in block if x[i] == MASK}
            fed = torch.tensor([i in fed for i in range(len(x))])[:, None]
            for layer in layers:
                layer.fed = fed
            with torch.no_grad():
                out = model(x[None], use_cache=True, **cache_argument(model, Cache(layers=layers)))
            logits = out.logits[0].roll(shift, 0)
            logits[:, MASK] = -torch.inf
            best, token = logits.softmax(-1).max(-1)
            masks = [i for i in block if x[i] == MASK]
            masks.sort(key=lambda i: (-float(best[i]), i))
            first, before = False, x.clone()
            for i in masks[:per_step]:
                x[i] = token[i]
            step, forwards = step + 1, forwards + 1
    return x, forwards


CACHES = [
    PrefixCache(),
    PrefixCache(refresh=3),
    DualCache(),
    DualCache(vicinity=3, refresh=3),
    DualCache(warmup=2),
    DelayedCache(),
    DelayedCache(refresh=3),
    FreeCache(),
    FreeCache(window=10),
]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_cache_is_what_its_definition_says(cache, shift):
    model = tiny_model("llama", torch.float32, False)
    ids, _ = prompts(1, PROMPT, seed=1)
    want, forwards = oracle(model, ids[0], cache, 2, shift)
    policy = LowConfidence(tokens_per_step=2)
    decoder = DiffusionDecoder(model, policy, cache=cache, mask_id=MASK, shifted=bool(shift))
    got = decoder.generate(ids, gen_length=GEN, block_length=BLOCK)
    assert got.sequences[0].tolist() == want.tolist()
    assert got.stats.forwards == forwards


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "cache", [PrefixCache(refresh=1), DualCache(refresh=1), DelayedCache(refresh=1)], ids=str
)
def test_refresh_in_every_step_is_no_cache_bit_for_bit(cache, shift):
    model = tiny_model("qwen2", torch.bfloat16, False)
    ids, mask = prompts(3, PROMPT, seed=2, ragged=True)
    runs = []
    for c in (None, cache):
        policy = Watching(Threshold(0.2))
        decoder = DiffusionDecoder(model, policy, cache=c, mask_id=MASK, shifted=shift)
        out = decoder.generate(ids, mask, gen_length=GEN, block_length=BLOCK)
        runs.append((out, policy.seen))
    (plain, hidden), (cached, hidden_cached) = runs
    assert torch.equal(plain.sequences, cached.sequences)
    assert len(hidden) == len(hidden_cached) > 3
    assert all(map(torch.equal, hidden, hidden_cached))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cache", [*CACHES[1::2], CACHES[2]], ids=str)
def test_a_batch_equals_its_rows_alone(cache, dtype):
    model = tiny_model("qwen3", dtype, False)
    decoder = DiffusionDecoder(model, Threshold(0.15), cache=cache, mask_id=MASK)
    ids, mask = prompts(4, PROMPT, seed=3, ragged=True)
    together = decoder.generate(ids, mask, gen_length=GEN, block_length=BLOCK)
    assert len({tuple(s) for s in together.stats.steps}) > 1, "all rows move alike"
    for b in range(4):
        alone = decoder.generate(ids[b : b + 1, mask[b] == 1], gen_length=GEN, block_length=BLOCK)
        assert alone.sequences[0, -GEN:].tolist() == together.sequences[b, -GEN:].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]


@settings(max_examples=15, deadline=None)
@given(
    cache=st.sampled_from([None, *CACHES, PrefixCache(refresh=1), DelayedCache(refresh=1)]),
    block=st.integers(1, 6),
    blocks=st.integers(1, 3),
    length=st.integers(1, 9),
    shift=st.booleans(),
)
def test_whatever_the_sizes(cache, block, blocks, length, shift):
    model = tiny_model("llama", torch.float32, False)
    ids, mask = prompts(2, length, seed=4, ragged=True)
    gen = block * blocks
    outs = []
    for kv in (None, cache):
        decoder = DiffusionDecoder(model, Threshold(0.1), cache=kv, mask_id=MASK, shifted=shift)
        outs.append(decoder.generate(ids, mask, gen_length=gen, block_length=block))
        new = outs[-1].sequences[:, length:]
        assert torch.equal(outs[-1].sequences[:, :length], ids) and not bool((new == MASK).any())
        assert outs[-1].stats.forwards == max(map(sum, outs[-1].stats.steps)) <= gen
    exact = cache is None or getattr(cache, "refresh", None) == 1 or block == 1 == blocks
    if exact:
        assert torch.equal(outs[0].sequences, outs[1].sequences)
        assert outs[0].stats.steps == outs[1].stats.steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrefixCache(refresh=0), "PrefixCache: refresh: expected an integer >= 1"),
        (lambda: DualCache(vicinity=-1), "DualCache: vicinity: expected an integer >= 0"),
        (lambda: DualCache(warmup=0), "DualCache: warmup: expected an integer >= 1"),
        (lambda: DelayedCache(refresh=2.5), "DelayedCache: refresh: expected an integer >= 1"),
        (lambda: FreeCache(window=0), "FreeCache: window: expected an integer >= 1"),
    ],
)
def test_counts_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
