"""What the samples cannot say about `vocab_stats`: messages, distributions, row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def rng_rows(count, seed=7):
    """One draw per position of one sequence."""
    rng = torch.zeros(count, 4, dtype=torch.int64)
    rng[:, 0], rng[:, 3] = seed, torch.arange(count)
    return rng


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 9, dtype=torch.int64)}, "logits: expected float32, float16 or"),
        ({"logits": torch.zeros(9)}, r"logits: expected shape \[\*, \*\], got \[9\]"),
        ({"logits": torch.zeros(2, 18)[:, ::2]}, "logits: expected a contiguous last dimension"),
        ({"k": 0}, r"k: expected 1 <= k <= min\(V, 64\) with V = 9, got 0"),
        ({"k": 10}, r"k: expected 1 <= k <= min\(V, 64\) with V = 9, got 10"),
        ({"logits": torch.zeros(2, 99), "k": 65}, r"k: .*V = 99, got 65"),
        ({"rows": torch.tensor([0, 2])}, r"rows: expected -1 <= row <= 1 at index 1, got 2"),
        ({"rows": torch.tensor([1, -2])}, r"rows: .*index 1, got -2"),
        ({"suppress": torch.tensor([8, 9])}, r"suppress: expected 0 <= id <= 8 at index 1, got 9"),
        ({"suppress": torch.tensor([-1])}, r"suppress: .*got -1"),
        ({"rng": None}, "rng: expected both temperature and rng or neither, got None"),
        ({"temperature": None}, "temperature: expected both temperature and rng or neither"),
        ({"rng": torch.zeros(2, 3, dtype=torch.int64)}, r"rng: expected shape \[2, 4\]"),
        ({"temperature": torch.tensor([1.0])}, r"temperature: expected shape \[2\], got \[1\]"),
        ({"temperature": torch.tensor([0.0, -1.0])}, r"temperature: .* >= 0 at index 1, got -1"),
        ({"temperature": torch.tensor([torch.nan, 1.0])}, r"temperature: .*index 0, got -?nan"),
    ],
)
def test_refusals(change, message):
    args = {
        "logits": torch.zeros(2, 9),
        "temperature": torch.ones(2),
        "rng": rng_rows(2),
    } | change
    with pytest.raises(RuntimeError, match="vocab_stats: " + message):
        ops.vocab_stats(**args)


def test_philox_gives_the_published_words():
    ones = torch.tensor(-1)
    zero = torch.tensor(0)
    words = ref.philox.philox4x32(zero, (zero,) * 4)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = ref.philox.philox4x32(ones, (ones,) * 4)
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter = tuple(torch.tensor(c) for c in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344))
    words = ref.philox.philox4x32(torch.tensor(0x299F31D0A4093822), counter)
    assert [int(w) for w in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_gumbel_follows_its_definition():
    g = torch.Generator().manual_seed(1)
    word = torch.randint(0, 2**32, (4000,), generator=g)
    word[:6] = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    v = (word.double() + 0.5) / 2**32
    want = -torch.log(-torch.log1p(-v))
    torch.testing.assert_close(ref.philox.gumbel(word).double(), want, rtol=2e-6, atol=4e-7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_row_alone_equals_row_in_batch(dtype, isa):
    g = torch.Generator().manual_seed(3)
    logits = (torch.randn(5, 20003, generator=g) * 4).to(dtype)  # rows of every alignment
    temperature = torch.tensor([0.0, 1.0, 0.3, 2.0, 1.0])
    rng = rng_rows(5)
    batch = ops.vocab_stats(logits, 8, temperature=temperature, rng=rng)
    for r in range(5):
        one = slice(r, r + 1)
        alone = ops.vocab_stats(logits[one].clone(), 8, temperature=temperature[one], rng=rng[one])
        assert same(alone, [field[one] for field in batch])
    picked = ops.vocab_stats(
        logits, 8, rows=torch.tensor([3, 3]), temperature=temperature[[3, 1]], rng=rng[[3, 1]]
    )
    assert same([f[:1] for f in picked], [f[3:4] for f in batch])


# Where logits lie: around 0, far apart, all of one sign, far from 0; fp16 ends at 65504.
PLACES = [(0, 3), (0, 60), (-300, 5), (300, 5), (300, 60), (-5000, 100), (40000, 2000)]


def placed(shift, scale, dtype):
    g = torch.Generator().manual_seed(4)
    logits = (torch.randn(3, 10000, generator=g) * scale + shift).to(dtype)
    logits[1, 600:3000] = -torch.inf
    logits[2, 5000:7000:3] = -torch.inf
    return logits


@pytest.mark.parametrize(("shift", "scale"), PLACES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_both_instruction_sets_give_the_same_bits(dtype, shift, scale):
    from tokenburst import _C

    logits = placed(shift, scale, dtype)
    before, results = _C.isa(), []
    for name in {before, "portable"}:
        _C.set_isa(name)
        results.append(ops.vocab_stats(logits, 4, temperature=torch.ones(3), rng=rng_rows(3)))
    _C.set_isa(before)
    assert same(results[0], results[-1])


@pytest.mark.parametrize(("shift", "scale"), PLACES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_hold_wherever_the_logits_lie(dtype, shift, scale):
    logits = placed(shift, scale, dtype)
    got = ops.vocab_stats(logits, 2)
    x = logits.double()
    values = x.topk(2).values
    p = x.softmax(-1)
    assert torch.equal(got.values.double(), values)
    assert torch.equal(x.gather(1, got.ids), values)
    entropy = -(p * x.log_softmax(-1)).masked_fill(p == 0, 0).sum(-1)
    torch.testing.assert_close(got.lse.double(), x.logsumexp(-1), rtol=2e-7, atol=5e-7)
    torch.testing.assert_close(got.entropy.double(), entropy, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(got.confidence.double(), p.amax(-1), rtol=1e-6, atol=1e-9)


def test_only_the_named_rows_are_read():
    logits = torch.randn(4, 300)
    rows = torch.tensor([2, -1])
    want = ops.vocab_stats(logits, 3, rows=rows)
    logits[[0, 1, 3]] = torch.nan
    got = ops.vocab_stats(logits, 3, rows=rows)
    assert same(got, want) and got.n_nan.tolist() == [0, 0]
    empty = ops.VocabStats(*(field[1] for field in got))
    assert empty.ids.tolist() == [-1] * 3 and empty.values.tolist() == [-torch.inf] * 3
    assert (empty.token, empty.lse) == (-1, -torch.inf)
    assert (empty.confidence, empty.margin, empty.entropy) == (0, 0, 0)


def test_a_single_possible_token_is_certain():
    got = ops.vocab_stats(torch.zeros(1, 3), suppress=torch.tensor([0, 2]))
    assert (got.token, got.confidence, got.margin, got.lse) == (1, 1, 1, 0)
    assert abs(got.entropy) < 1e-30


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_softmax(temperature):
    draws, vocab = 200_000, 37
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(5)) * 1.5
    logits[11] = -torch.inf
    expected = (logits / temperature).softmax(0).double() * draws
    got = ops.vocab_stats(
        logits.expand(draws, vocab),
        temperature=torch.full((draws,), temperature),
        rng=rng_rows(draws, seed=2024),
    )
    observed = torch.bincount(got.token, minlength=vocab).double()
    assert observed[11] == 0
    likely = expected >= 5  # the rest is one cell
    cells = [(observed[likely], expected[likely])]
    cells.append((observed[~likely].sum()[None], expected[~likely].sum()[None].clamp_min(1e-9)))
    chi2 = sum(((o - e) ** 2 / e).sum() for o, e in cells)
    freedom = int(likely.sum())
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5
    torch.testing.assert_close(got.confidence, logits.softmax(0)[got.token], rtol=1e-5, atol=1e-8)


def test_every_part_of_the_key_matters():
    logits, t = torch.zeros(1, 1000), torch.ones(1)
    base = torch.tensor([[1, 2, 3, 4]])
    tokens = {int(ops.vocab_stats(logits, temperature=t, rng=base).token)}
    for change in ([1 << 32, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]):
        rng = base + torch.tensor([change])
        tokens.add(int(ops.vocab_stats(logits, temperature=t, rng=rng).token))
    assert len(tokens) == 6
    wrapped = base + torch.tensor([[0, 1 << 32, 1 << 33, 1 << 32]])  # low words count
    assert same(
        ops.vocab_stats(logits, temperature=t, rng=wrapped),
        ops.vocab_stats(logits, temperature=t, rng=base.int()),
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_reference_on_any_shape(data):
    vocab = data.draw(st.integers(1, 1100))
    count = data.draw(st.integers(1, 4))
    k = data.draw(st.integers(1, min(vocab, 64)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    levels = data.draw(st.sampled_from([2, 9, 10_000]))  # few levels, many ties
    logits = torch.randint(-levels, levels, (count, vocab), generator=g) * (10 / levels)
    logits = logits.to(data.draw(st.sampled_from(FLOATS)))
    kwargs = {
        "temperature": torch.rand(count, generator=g) * data.draw(st.sampled_from([0.0, 2.0])),
        "rng": torch.randint(0, 2**31, (count, 4), generator=g),
    }
    got = ops.vocab_stats(logits, k, **kwargs)
    want = ref.vocab.vocab_stats(logits, k, **kwargs)
    for i in (0, 1, 3, 7):
        assert torch.equal(got[i], want[i])
    for i in (2, 4, 5, 6):
        torch.testing.assert_close(got[i], want[i], rtol=3e-6, atol=3e-6)
