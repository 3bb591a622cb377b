"""What the samples cannot say about `vocab_top`: messages, agreement with `vocab_stats`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 9, dtype=torch.int64)}, "logits: expected float32, float16 or"),
        ({"logits": torch.zeros(9)}, r"logits: expected shape \[\*, \*\], got \[9\]"),
        ({"logits": torch.zeros(2, 18)[:, ::2]}, "logits: expected a contiguous last dimension"),
        ({"k": 0}, r"k: expected 1 <= k <= min\(V, 64\) with V = 9, got 0"),
        ({"k": 10}, r"k: expected 1 <= k <= min\(V, 64\) with V = 9, got 10"),
        ({"logits": torch.zeros(2, 99), "k": 65}, r"k: .*V = 99, got 65"),
        ({"count": torch.tensor([1, 1])}, "count: expected None for logits of two dimensions"),
        (
            {"logits": torch.zeros(2, 3, 9), "count": torch.tensor([1])},
            r"count: expected shape \[2\], got \[1\]",
        ),
        (
            {"logits": torch.zeros(2, 3, 9), "count": torch.tensor([3, 4])},
            "count: expected 0 <= count <= 3 in sequence 1, got 4",
        ),
        (
            {"logits": torch.zeros(2, 3, 9), "count": torch.tensor([-1, 4])},
            "count: .*sequence 0, got -1",
        ),
        (
            {"logits": torch.zeros(2, 3, 9), "count": torch.ones(2)},
            "count: expected int32 or int64, got float32",
        ),
    ],
)
def test_refusals(change, message):
    with pytest.raises(RuntimeError, match="vocab_top: " + message):
        ops.vocab_top(**({"logits": torch.zeros(2, 9)} | change))


@pytest.mark.parametrize("dtype", FLOATS)
def test_it_is_the_top_of_the_statistics(dtype, isa):
    g = torch.Generator().manual_seed(3)
    logits = (torch.randn(5, 40003, generator=g) * 4).to(dtype)  # three chunks, any alignment
    got, want = ops.vocab_top(logits, 8), ops.vocab_stats(logits, 8)
    assert torch.equal(got.ids, want.ids) and torch.equal(got.values, want.values)
    for r in range(5):
        alone = ops.vocab_top(logits[r : r + 1].clone(), 8)
        assert torch.equal(alone.ids, got.ids[r : r + 1])


def test_rows_beyond_the_count_are_not_read():
    logits = torch.randn(2, 4, 300)
    count = torch.tensor([1, 3])
    want = ops.vocab_top(logits, 3, count=count)
    logits[0, 1:], logits[1, 3:] = torch.inf, torch.nan
    got = ops.vocab_top(logits, 3, count=count)
    assert torch.equal(got.ids, want.ids) and torch.equal(got.values, want.values)
    assert (got.ids[0, 1:] == -1).all() and (got.values[1, 3:] == -torch.inf).all()


def test_infinity_is_the_largest_number():
    most = torch.finfo(torch.float32).max
    logits = torch.tensor([[0.0, most, torch.inf, torch.nan, -torch.inf] + [-1.0] * 70])
    got = ops.vocab_top(logits, 4)
    assert got.ids.tolist() == [[1, 2, 0, 5]]
    assert got.values.tolist() == [[most, most, 0.0, -1.0]]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_row(data):
    vocab = data.draw(st.integers(1, 300))
    k = data.draw(st.integers(1, min(vocab, 64)))
    pick = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, torch.inf, -torch.inf, torch.nan])
    row = data.draw(st.lists(pick, min_size=vocab, max_size=vocab))
    if data.draw(st.booleans()):  # few of them are numbers
        row = [x if i % 9 == 0 else torch.nan for i, x in enumerate(row)]
    dtype = data.draw(st.sampled_from(FLOATS))
    logits = torch.tensor([row]).to(dtype)
    got, want = ops.vocab_top(logits, k), ref.vocab.vocab_top(logits, k)
    assert torch.equal(got.ids, want[0]) and torch.equal(got.values, want[1])
