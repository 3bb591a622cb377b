"""Whole generations against published loops with KV caches, on stock caches and masks."""

import published_loops as loops
import published_rules as published
import pytest
import torch
from parity import GEN, case, noise
from test_block_causal import BLOCK as CAUSAL_BLOCK
from test_block_causal import model as causal_model
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from tiny import VOCAB, prompts
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import BlockCausalCache, DualCache, PrefixCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.models.cache import cache_argument

MASK = VOCAB - 1


class Replacing(CacheLayerMixin):
    """Keys and values of all positions; what comes is written over `rows`."""

    def __init__(self):
        super().__init__()
        self.rows, self.kept = None, None

    def update(self, keys, values, *args, **kwargs):
        new = torch.stack([keys, values])
        if self.rows is None:
            self.kept = new
        else:
            self.kept[..., self.rows, :] = new
        return self.kept.unbind(0)

    lazy_initialization = get_max_length = None
    get_seq_length = lambda self: 0  # noqa: E731
    get_mask_sizes = lambda self, n: (self.kept.shape[-2] if self.rows else n, 0)  # noqa: E731


Replacing.__abstractmethods__ = frozenset()


def fast_dllm(c, prompt, block, rule, kind):
    """Fast-dLLM's caches: a full forward at the start of a block, then its suffix or it alone."""
    state = loops.Blocks(prompt, GEN, block, c.mask)
    x, length = state.x, len(state.x)
    n_layers = c.model.config.num_hidden_layers

    def shown(logits, begin):
        """Rows of positions begin.. as logits [length, V] of what they predict."""
        if c.shifted:  # the first row stands in for the one that is missing
            logits = torch.cat([logits[:1], logits[:-1]])
        out = torch.zeros(length, logits.shape[1])
        out[begin : begin + len(logits)] = logits.float()
        out[:, c.mask] = -torch.inf
        return out

    def commit(logits, j):
        p = logits.double().softmax(-1)
        state.token = p.argmax(-1)
        masks = state.left(begin, end)
        chosen = [begin] if c.shifted and j == 0 else rule(p, masks, j, state)
        for i in chosen:
            x[i] = state.token[i]

    for begin, end in state.spans:
        cache = (
            DynamicCache() if kind == "prefix" else Cache([Replacing() for _ in range(n_layers)])
        )
        with torch.no_grad():
            logits = c.model(x[None], use_cache=True, **cache_argument(c.model, cache)).logits[0]
        commit(shown(logits, 0), 0)
        last = length if kind == "prefix" else end
        for j in range(1, 100):
            if not state.left(begin, end):
                break
            if kind == "prefix":
                cache.crop(begin - cache.get_seq_length())
            for layer in cache.layers if kind == "dual" else ():
                layer.rows = slice(begin, end)
            with torch.no_grad():
                logits = c.model(
                    x[None, begin:last],
                    position_ids=torch.arange(begin, last)[None],
                    attention_mask=torch.zeros(1, 1, last - begin, length),
                    use_cache=True,
                    **cache_argument(c.model, cache),
                ).logits[0]
            commit(shown(logits, begin), j)
    return x


CACHES = {"prefix": PrefixCache(), "dual": DualCache()}
RULES = {
    "threshold": lambda t: (u.Threshold(t), published.threshold(t)),
    "factor": lambda t: (u.Factor(2 - 1.8 * t), published.factor(2 - 1.8 * t)),
    "quota": lambda t: (u.LowConfidence(6), published.quota(2.0, 3)),
}


MODELS = [("sudoku4", False, 0.7), ("qwen2", False, 0.25), ("qwen2", True, 0.2)]
SCHEDULED = [(*model, "quota") for model in MODELS[:2]]  # on Dream thresholds alone are published
SURE = [(*model, rule) for model in MODELS for rule in ("threshold", "factor")]


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize(("name", "shifted", "sure", "rule"), SURE + SCHEDULED)
def test_fast_dllm(kind, name, shifted, sure, rule):
    c = case(name, shifted)
    policy, oracle = RULES[rule](sure)
    policy = u.FirstAlone(policy) if shifted else policy
    decoder = DiffusionDecoder(c.model, policy, cache=CACHES[kind], mask_id=c.mask, shifted=shifted)
    for prompt in c.prompts:
        want = fast_dllm(c, prompt, 6, oracle, kind)
        got = decoder.generate(prompt[None], gen_length=GEN, block_length=6)
        assert got.sequences[0].tolist() == want.tolist()


def block_diffusion(model, prompt, gen_length, steps, tau, heat, draws):
    """SDAR's loop: blocks denoised on a cache that only finished blocks are stored in."""
    size = CAUSAL_BLOCK
    total = -(-(len(prompt) + gen_length) // size) * size
    x = torch.cat([prompt, torch.full((total - len(prompt),), MASK)])
    stored = len(prompt) // size * size
    number = torch.arange(total) // size
    cache = DynamicCache()

    def run(begin, end):
        seen = (number[None, :end] <= number[begin:end, None])[None, None]
        with torch.no_grad():
            return model(
                x[None, begin:end],
                position_ids=torch.arange(begin, end)[None],
                attention_mask=seen,
                use_cache=True,
                **cache_argument(model, cache),
            ).logits[0]

    if stored:
        run(0, stored)
    for begin in range(stored, total, size):
        end = begin + size
        for j in range(steps + 1):
            masks = [i for i in range(begin, end) if x[i] == MASK]
            if not masks:
                run(begin, end)  # stores it
                break
            logits = run(begin, end)
            cache.crop(begin - cache.get_seq_length())
            logits[:, MASK] = -torch.inf
            scaled = logits / heat
            token = (scaled + draws(j)[begin:end]).argmax(-1)
            c = torch.zeros(total)
            c[begin:end] = scaled.softmax(-1).gather(1, token[:, None])[:, 0]
            high = [i for i in masks if c[i] > tau]
            n = loops.share(size, steps, j)
            for i in high if len(high) >= n else loops.best(c, masks, n):
                x[i] = token[i - begin]
    return x[: len(prompt) + gen_length]


@pytest.mark.parametrize("kv", [None, BlockCausalCache()], ids=str)
@pytest.mark.parametrize("heat", [1.0, 0.5])
@pytest.mark.parametrize("length", [8, 10])
def test_sdar_block_diffusion_generate(kv, heat, length):
    prompt, gen_length = prompts(1, length, seed=length)[0][0], 12
    draws = noise(64, VOCAB, 5)
    want = block_diffusion(causal_model(), prompt, gen_length, 4, 0.2, heat, draws)
    policy = u.Tempered(u.sdar_dynamic(0.2))
    decoder = DiffusionDecoder(causal_model(), policy, cache=kv, mask_id=MASK)
    got = decoder.generate(prompt[None], gen_length=gen_length, temperature=heat, seed=5)
    assert got.sequences[0].tolist() == want.tolist()
    greedy = decoder.generate(prompt[None], gen_length=gen_length).sequences
    plain = DiffusionDecoder(causal_model(), u.sdar_dynamic(0.2), cache=kv, mask_id=MASK)
    assert torch.equal(greedy, plain.generate(prompt[None], gen_length=gen_length).sequences)
