"""SparseD beside KV caches: a step uses the pattern's rows of the positions that it computes."""

import pytest
import torch
import torch.nn.functional as F

import tokenburst as tb
from tiny import VOCAB, prompts, tiny_model
from tokenburst import ref
from tokenburst.decoders.sparsedrun import SparsedRun
from tokenburst.decoders.sparserows import Fed
from tokenburst.patterns import unpack_bits

MASK = VOCAB - 1
CACHES = [
    tb.PrefixCache(),
    tb.DualCache(),
    tb.DualCache(vicinity=5, refresh=3, warmup=2),
    tb.DelayedCache(),
    tb.FreeCache(window=20),
    tb.GreedyCache(),
]


def plain(q, k, v, mask, scale):
    """[rows, Hq, W, D]: dense attention under mask [rows, Hq, W, L], 0 where nothing is seen."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=True
    ).masked_fill(~mask.any(-1, keepdim=True), 0.0)


class Definition(SparsedRun):
    """The same in plain torch: the query at position p attends by row p // block of the pattern."""

    where = None  # position [rows, W], seen [rows] and L of the forward, noted by `note`

    def attend(self, layer, q, k, v, count, scale):
        position, seen, length = self.where
        k, v = k[:, :, :length], v[:, :, :length]
        keys = torch.arange(length)
        block, prompt = self.block, self.prompt_len
        if layer not in self.bits:
            n = -(-length // block)
            self.bits[layer] = torch.zeros(len(q), q.shape[1], n, -(-n // 32), dtype=torch.int32)
        mask = (keys < seen[:, None])[:, None, None].expand(*q.shape[:3], length).clone()
        for b, turn in enumerate(self.turn):
            if turn == self.step and count[b]:
                one = slice(b, b + 1)
                assert count[b] == seen[b], "a pattern needs the queries of all positions"
                whole = torch.zeros(1, q.shape[1], length, q.shape[3])
                whole[0, :, position[b, : count[b]]] = q[b, :, : count[b]]
                parts = {"prompt_len": prompt[one], "kv_len": seen[one]}
                masses = ref.sparsed.attn_block_mass(whole, k[one], block, scale=scale, **parts)
                bits = ref.sparsed.attn_select_blocks(*masses, length, block, self.keep, **parts)
                self.bits[layer][b] = bits[0]
            if turn < self.step:
                flags = unpack_bits(self.bits[layer][b], -(-length // block))
                mask[b] &= flags[:, position[b] // block][:, :, keys // block]
        return plain(q, k, v, mask, scale)


def note(monkeypatch):
    """From now on decoders run the definition."""
    at = Fed.at.__func__

    def noted(cls, position, count, seen, length, block, most):
        Definition.where = position, seen, length
        return at(cls, position, count, seen, length, block, most)

    monkeypatch.setattr(Fed, "at", classmethod(noted))
    monkeypatch.setattr("tokenburst.decoders.sparsed.SparsedRun", Definition)


def generate(attention, cache, *, policy=None, shifted=False, **changes):
    model = tiny_model("llama", torch.float32, is_causal=False)
    ranking = "random" if isinstance(cache, tb.GreedyCache) else "confidence"
    policy = policy or tb.LowConfidence(tokens_per_step=4, ranking=ranking)
    options = {"gen_length": torch.tensor([64, 64, 32]), "block_length": 32} | changes
    ids, mask = prompts(3, 90, seed=1, ragged=True)
    decoder = tb.DiffusionDecoder(
        model, policy, cache=cache, attention=attention, mask_id=MASK, shifted=shifted
    )
    return decoder.generate(ids, mask, **options)


@pytest.mark.parametrize(
    ("cache", "shifted"), [*((c, False) for c in CACHES), (CACHES[1], True)], ids=str
)
def test_a_cached_step_is_what_its_definition_says(cache, shifted, monkeypatch):
    attention = tb.SparseD(0.2, 0.2, 32, steps=9)
    got = generate(attention, cache, shifted=shifted)
    assert got.stats.sparse.forwards > 3 and got.stats.sparse.density < 0.6
    note(monkeypatch)
    want = generate(attention, cache, shifted=shifted)
    assert torch.equal(got.sequences, want.sequences)
    assert got.stats.steps == want.stats.steps


def test_guided_rows_too(monkeypatch):
    got = generate(tb.SparseD(0.2, 0.1, 32), tb.DualCache(), guidance=0.5)
    note(monkeypatch)
    want = generate(tb.SparseD(0.2, 0.1, 32), tb.DualCache(), guidance=0.5)
    assert torch.equal(got.sequences, want.sequences)


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_never_sparse_is_the_cache_alone(cache):
    late, alone = (generate(a, cache, gen_length=32) for a in (tb.SparseD(0.1, 1.0, 32), None))
    assert torch.equal(late.sequences, alone.sequences)
    assert late.stats.sparse == tb.SparseStats(nbytes=0, density=0.0, forwards=0)


@pytest.mark.parametrize("cache", [tb.PrefixCache(refresh=1), tb.DualCache(refresh=1)], ids=str)
def test_a_cache_that_keeps_nothing_changes_nothing(cache):
    attention = tb.SparseD(0.2, 0.2, 32, steps=9)
    got, want = generate(attention, cache), generate(attention, None)
    assert torch.equal(got.sequences, want.sequences)
    assert got.stats.sparse.forwards == want.stats.sparse.forwards


@pytest.mark.parametrize("cache", CACHES[1:4:2], ids=str)
def test_a_batch_equals_its_rows_alone(cache):
    attention, policy = tb.SparseD(0.2, 0.2, 32, steps=9), tb.Threshold(0.12)
    together = generate(attention, cache, policy=policy)
    model = tiny_model("llama", torch.float32, is_causal=False)
    decoder = tb.DiffusionDecoder(model, policy, cache=cache, attention=attention, mask_id=MASK)
    ids, mask = prompts(3, 90, seed=1, ragged=True)
    for b, n in enumerate((64, 64, 32)):
        one = ids[b : b + 1, mask[b] == 1]
        alone = decoder.generate(one, gen_length=n, block_length=32)
        want = together.sequences[b, 90 : 90 + n]
        assert torch.equal(alone.sequences[0, one.shape[1] :], want), b


@pytest.mark.parametrize("block", [32, 64, 128])
def test_any_positions_of_any_rows(block):
    """Queries by row of the pattern, from no position of a row to all of another."""
    g = torch.Generator().manual_seed(block)
    length, width, seen = 300, 300, torch.tensor([300, 211, 300, 97])
    feed = torch.rand(4, length, generator=g) < torch.tensor([1.1, 0.1, 0.0, 0.5])[:, None]
    feed &= torch.arange(length) < seen[:, None]
    position = (~feed).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    count = feed.sum(1, dtype=torch.int32)
    q = torch.randn(4, 6, width, 16, generator=g)
    k, v = (torch.randn(4, 2, length + 1, 16, generator=g) for _ in "kv")
    k[:, :, -1], v[:, :, -1] = float("nan"), float("nan")
    n = -(-length // block)
    run = SparsedRun(seen, [0] * 4, block=block, keep=0.3, pattern_scale="attention")
    flags = torch.rand(4, 6, n, n, generator=g) < 0.5
    flags[..., 0] = True
    run.bits[0] = tb.BlockPattern.from_bool(flags, block).bits
    run.step = 0
    fed = Fed.at(position, count, seen, length, block, int(run.touched(feed).max()))
    run.begin(4, fed)
    got = run.attend(0, q, k, v, count, None)
    mask = flags.repeat_interleave(block, 3)[..., :length]
    mask = mask & (torch.arange(length) < seen[:, None])[:, None, None]
    mask = mask.gather(2, (position // block)[:, None, :, None].expand(-1, 6, -1, length))
    want = plain(q, k[:, :, :length], v[:, :, :length], mask, None)
    real = (torch.arange(width) < count[:, None])[:, None, :, None]
    assert not got.isnan().any()
    torch.testing.assert_close(got.where(real, 0.0), want.where(real, 0.0), atol=2e-6, rtol=1e-5)
