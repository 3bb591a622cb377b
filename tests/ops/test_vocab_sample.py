"""What the samples cannot say about `vocab_sample`: messages, laws, beams."""

import itertools

import pytest
import torch

from tokenburst import _C, ops
from toys import chi2

N = 400_000


def rng_rows(n, step=0, position=0, seed=9):
    rng = torch.tensor([[seed, 0, step, position]]).repeat(n, 1)
    rng[:, 1] = torch.arange(n)
    return rng


def draws(weights, k, n=N, **kwargs):
    logits = torch.tensor(weights).log().expand(n, -1)
    rng = kwargs.pop("rng", rng_rows(n))
    return ops.vocab_sample(logits, k, torch.ones(n), rng, **kwargs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 9, dtype=torch.int64)}, "logits: expected float32, float16 or"),
        ({"logits": torch.zeros(2, 18)[:, ::2]}, "logits: expected a contiguous last dimension"),
        ({"k": 0}, r"k: expected 1 <= k <= min\(V, 64\) with V = 9, got 0"),
        ({"k": 10}, r"k: .* with V = 9, got 10"),
        ({"k": 65, "replacement": True}, "k: expected 1 <= k <= 64, got 65"),
        ({"temperature": torch.ones(3)}, r"temperature: expected shape \[2\], got \[3\]"),
        ({"temperature": -torch.ones(2)}, "temperature: expected a number >= 0 at index 0, got -1"),
        ({"rng": torch.zeros(2, 3, dtype=torch.int64)}, r"rng: expected shape \[2, 4\]"),
        ({"rows": torch.tensor([0, 2])}, "rows: expected -1 <= row <= 1 at index 1, got 2"),
        ({"parent_g": torch.zeros(2)}, "parent_phi: expected both parent_g and parent_phi"),
        (
            {"parent_g": torch.zeros(2), "parent_phi": torch.zeros(2), "replacement": True},
            "parent_g: expected None with replacement",
        ),
    ],
)
def test_refusals(change, message):
    args = {"logits": torch.zeros(2, 9), "k": 2, "temperature": torch.ones(2), "rng": rng_rows(2)}
    with pytest.raises(RuntimeError, match="vocab_sample: " + message):
        ops.vocab_sample(**(args | change))


def test_order_is_plackett_luce():
    weights = [0.5, 0.4, 0.1]
    ids = draws(weights, 3).ids
    joint = torch.zeros(3, 3)
    for a, b in itertools.permutations(range(3), 2):
        joint[a, b] = weights[a] * weights[b] / (1 - weights[a])
    torch.testing.assert_close(joint[0, 1], torch.tensor(0.4))
    assert chi2(ids[:, 0] * 3 + ids[:, 1], joint) < 1
    assert bool((ids.sort(1).values == torch.arange(3)).all())


def test_values_are_gumbel_values():
    got = draws([0.5, 0.4, 0.1], 3)
    assert bool((got.g[:, :-1] >= got.g[:, 1:]).all())
    # The largest is standard Gumbel whatever it picks; e^-g is then uniform through e^-x.
    for i in range(3):
        first = got.ids[:, 0] == i
        u = torch.exp(-torch.exp(-got.g[first, 0].double()))
        assert chi2((u * 20).long(), torch.full((20,), 0.05)) < 1
    # Of each token by itself too: location log q, independent of the others.
    value = torch.empty(N, 3).scatter_(1, got.ids, got.g - got.logq).double()
    u = (torch.exp(-torch.exp(-value)) * 4).long().clamp(max=3)
    assert chi2(u[:, 0] * 16 + u[:, 1] * 4 + u[:, 2], torch.full((64,), 1 / 64)) < 1


def test_beam_values_are_bounded_by_the_parent():
    n = N // 4
    root = torch.zeros(n)
    got = draws([0.5, 0.4, 0.1], 3, n, parent_g=root - 0.7, parent_phi=root - 2.0)
    assert bool((got.g[:, 0] == -0.7).all())
    assert bool((got.g[:, :-1] >= got.g[:, 1:]).all())
    # Against the same law by conditioning Gumbel values on their maximum, as in the paper.
    g = torch.Generator().manual_seed(3)
    noise = -torch.log(-torch.log(torch.rand(n, 3, generator=g, dtype=torch.float64)))
    own = torch.tensor([0.5, 0.4, 0.1]).log().double() - 2.0 + noise
    top = own.amax(1, keepdim=True)
    want = -torch.log(torch.exp(torch.tensor(0.7)) - torch.exp(-top) + torch.exp(-own))
    want = want.sort(1, descending=True).values
    edges = want[:, 1].quantile(torch.linspace(0, 1, 21, dtype=torch.float64))[1:-1]
    shares = torch.bincount(torch.bucketize(want[:, 1], edges), minlength=20) / n
    assert chi2(torch.bucketize(got.g[:, 1].double(), edges), shares) < 2  # both are samples


def test_replacement_draws_are_independent():
    p = torch.tensor([0.5, 0.4, 0.1])
    ids = draws([0.5, 0.4, 0.1], 2, replacement=True).ids
    assert chi2(ids[:, 0] * 3 + ids[:, 1], p[:, None] * p) < 1


def test_support_smaller_than_k():
    got = draws([0.0, 1.0, 0.0, 1.0], 4, n=50)
    assert bool((got.ids[:, :2].sort(1).values == torch.tensor([1, 3])).all())
    assert bool((got.ids[:, 2:] == -1).all()) and bool((got.g[:, 2:] == -torch.inf).all())
    torch.testing.assert_close(got.logq[:, :2], torch.full((50, 2), 0.5).log())


def test_log_probabilities_and_normaliser():
    logits = torch.randn(6, 5000) * 3
    t = torch.tensor([0.3, 1.0, 2.0]).repeat(2)
    got = ops.vocab_sample(logits, 20, t, rng_rows(6))
    scaled = logits / t[:, None]
    torch.testing.assert_close(got.lse, scaled.logsumexp(1), rtol=2e-6, atol=2e-6)
    want = scaled.log_softmax(1).gather(1, got.ids)
    torch.testing.assert_close(got.logq, want, rtol=1e-5, atol=1e-5)


def test_every_part_of_the_key_matters_and_neighbours_do_not():
    logits = torch.randn(5, 3000)
    base = torch.tensor([[1, 2, 3, 4]])
    changes = torch.tensor([[0] * 4, [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    batch = ops.vocab_sample(logits[:1].expand(5, -1), 8, torch.ones(5), base + changes)
    assert len({tuple(row) for row in batch.ids.tolist()}) == 5
    before, results = _C.isa(), []
    for name in (before, "portable"):
        _C.set_isa(name)
        results.append(ops.vocab_sample(logits, 8, torch.ones(5), rng_rows(5)))
    _C.set_isa(before)
    alone = [
        ops.vocab_sample(logits[i : i + 1], 8, torch.ones(1), rng_rows(5)[i : i + 1])
        for i in range(5)
    ]
    for a, b, *rows in zip(*results, *alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a, torch.cat(rows))


def test_a_row_cut_for_threads_gives_the_same_draws():
    # Fewer rows than threads are cut at blocks of 512; the last block here has one logit.
    logits = torch.randn(2, 40_449, generator=torch.Generator().manual_seed(5)) * 4
    logits[1, 512::700] = torch.nan
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for t in (0.0, 0.7, 1.0):
            results.append(ops.vocab_sample(logits, 9, torch.full((2,), t), rng_rows(2)))
    torch.set_num_threads(before)
    for whole, cut in zip(results[:3], results[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_a_row_at_the_ends_of_the_floats():
    logits = torch.linspace(-60, 0, 700).repeat(3, 1)
    logits[0, 600], logits[1, 5] = torch.inf, torch.finfo(torch.float32).max
    logits[2, ::3] = -torch.inf
    got = ops.vocab_sample(logits, 2, torch.tensor([1.0, 0.5, 2.0]), rng_rows(3))
    assert got.ids[:, 0].tolist()[:2] == [600, 5]
    assert got.ids[:2, 1].tolist() == [-1, -1]
    torch.testing.assert_close(got.lse[2], (logits[2] / 2).logsumexp(0))


def test_the_tile_is_drawn_by_its_mass():
    # A light tile of 512 with one heavy token, another with many, a short one.
    weights = torch.ones(1100, dtype=torch.float64)
    weights[:512] *= 2.0**-10
    weights[[3, 600, 1025]] = torch.tensor([200.0, 100.0, 300.0], dtype=torch.float64)
    n = N // 4
    got = ops.vocab_sample(weights.log().float().expand(n, -1), 2, torch.ones(n), rng_rows(n))

    def parts(p):
        return torch.stack([x.sum() for x in (p / p.sum()).split(128)])

    assert chi2(got.ids[:, 0] // 128, parts(weights)) < 1
    # The second of those that drew 1025 first: its tile stays behind with what is left.
    second = got.ids[got.ids[:, 0] == 1025, 1]
    weights[1025] = 0
    assert chi2(second // 128, parts(weights)) < 1


@pytest.mark.parametrize("t", [1e-30, 1e-5, 1.0, 1e30, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_temperature_beside_any_logit(t, dtype):
    # Powers of two that floats do not hold, tiles far below the best, no finite least logit.
    for scale in (1.0, 1e6, 3e37):
        logits = (torch.linspace(3, -3, 1500) * scale).to(dtype).repeat(2, 1)
        logits[:, 700], logits[1, :600] = -torch.inf, torch.nan
        got = ops.vocab_sample(logits, 4, torch.full((2,), t), rng_rows(2))
        scaled = logits.double().nan_to_num(nan=-torch.inf) / torch.tensor(t).double()
        torch.testing.assert_close(got.lse, scaled.logsumexp(1).float(), rtol=3e-6, atol=3e-6)
        want = scaled.log_softmax(1).gather(1, got.ids.clamp_min(0))
        drawn = got.ids >= 0
        assert bool((want[drawn] > -30).all()) and bool(drawn[:, 0].all())
