"""What the samples cannot say about `vocab_filter`: messages, laws of chance, agreement."""

import pytest
import torch

from tokenburst import ops


def names(count, seed=7):
    rng = torch.zeros(count, 4, dtype=torch.int64)
    rng[:, 0], rng[:, 3] = seed, torch.arange(count)
    return rng


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uncond": torch.zeros(2, 9)}, "guidance: expected both uncond and guidance or neither"),
        ({"guidance": torch.zeros(2)}, "uncond: expected both uncond and guidance or neither"),
        ({"uncond": torch.zeros(2, 9).half(), "guidance": torch.zeros(2)}, "uncond: expected"),
        ({"bias": torch.zeros(1)}, r"bias: expected shape \[0\]"),
        ({"bias_ids": torch.tensor([1])}, "bias: expected both bias_ids and bias or neither"),
        ({"unranked": torch.tensor([9])}, "unranked: expected 0 <= id <= 8 at index 0, got 9"),
        ({"top_p": torch.tensor([0.5, 0.0])}, "top_p: expected a number > 0 and <= 1 at index 1"),
        ({"top_p": torch.tensor([torch.nan, 1.0])}, "top_p: expected a number > 0 and <= 1"),
        ({"top_k": torch.tensor([0, -1])}, "top_k: expected top_k >= 0 at index 1, got -1"),
        ({"temperature": torch.ones(2)}, "rng: expected both temperature and rng or neither"),
        ({"rows": torch.tensor([2])}, "rows: expected -1 <= row <= 1 at index 0, got 2"),
        ({"logits": torch.zeros(2, 0)}, "logits: expected 1 to 2.31 - 1 columns, got 0"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(RuntimeError, match="vocab_filter: " + message):
        ops.vocab_filter(**({"logits": torch.zeros(2, 9)} | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_options_it_agrees_with_vocab_stats(dtype):
    g = torch.Generator().manual_seed(3)
    logits = (torch.randn(6, 1000, generator=g) * 3).to(dtype)
    chance = {"temperature": torch.tensor([0.0, 1.0, 0.3] * 2), "rng": names(6)}
    suppress = torch.tensor([4, 5])
    a = ops.vocab_stats(logits, suppress=suppress, **chance)
    b = ops.vocab_filter(logits, suppress=suppress, **chance)
    assert torch.equal(a.token, b.token)
    for name in ("confidence", "margin", "entropy"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=3e-6, atol=1e-6)
    assert (b.n_kept == 998).all()


def test_draws_follow_the_kept_distribution():
    count, vocab = 20000, 12
    g = torch.Generator().manual_seed(1)
    row = torch.randn(vocab, generator=g) * 1.5
    logits = row.expand(count, -1)
    chance = {"temperature": torch.full((count,), 0.7), "rng": names(count)}
    got = ops.vocab_filter(logits, top_p=torch.full((count,), 0.8), tempered=True, **chance)
    q, order = (row / 0.7).softmax(0).sort(descending=True)
    keep = order[q.cumsum(0) - q <= 0.8]
    assert int(got.n_kept[0]) == len(keep) < vocab
    want = torch.zeros(vocab)
    want[keep] = (row[keep] / 0.7).softmax(0)
    share = torch.bincount(got.token, minlength=vocab) / count
    assert float((share - want).abs().max()) < 5 * (0.25 / count) ** 0.5
    torch.testing.assert_close(got.confidence, want[got.token], rtol=1e-5, atol=1e-7)


def test_log_odds_tell_apart_what_is_one_in_float32():
    logits = torch.zeros(3, 50)
    logits[:, 7] = torch.tensor([24.0, 25.0, 30.0])
    got = ops.vocab_filter(logits)
    assert got.confidence.tolist() == [1.0] * 3
    want = logits[:, 7] - torch.tensor(49.0).log()
    torch.testing.assert_close(got.log_odds, want, rtol=1e-5, atol=1e-5)
    alone = ops.vocab_filter(logits[:, :1])
    assert alone.log_odds.tolist() == [torch.inf] * 3
