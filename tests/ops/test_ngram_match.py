"""What the samples cannot say about `ngram_match`: published examples, messages, properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref

OFFICIAL = {"most": 3, "whole": True}
TRANSFORMERS = {"most": 2}
VLLM = {"most": 3}


@pytest.mark.parametrize(
    ("history", "k", "official", "transformers", "vllm"),
    [
        ([1, 2, 3, 4, 2, 3], 4, [], [4, 2, 3], [4, 2, 3]),
        ([5, 5, 5, 5], 3, [5, 5, 5], [5, 5], [5]),
        ([7, 1, 2, 8, 9, 1, 2, 6, 4, 1, 2], 2, [8, 9], [8, 9], [8, 9]),
    ],
)
def test_published_semantics(history, k, official, transformers, vllm):
    tokens, length = torch.tensor([history]), torch.tensor([len(history)])
    for options, want in ((OFFICIAL, official), (TRANSFORMERS, transformers), (VLLM, vllm)):
        got = ops.ngram_match(tokens, length, k, **options)
        assert got.draft.tolist() == [want + [-1] * (k - len(want))]
        assert got.n_draft.tolist() == [len(want)]
        assert (got.match_len > 0).tolist() == [bool(want)]


def test_latest_match():
    tokens = torch.tensor([[7, 1, 2, 8, 9, 1, 2, 6, 4, 1, 2]])
    got = ops.ngram_match(tokens, torch.tensor([11]), 2, latest=True)
    assert got.draft.tolist() == [[6, 4]] and got.match_len.tolist() == [2]


def test_nothing_behind_the_length_is_read():
    tokens = torch.tensor([[1, 2, 1, 2, 9], [1, 2, 1, 3, 9]])
    got = ops.ngram_match(tokens, torch.tensor([3, 3]), 4)
    assert got.draft.tolist() == [[2, 1, -1, -1]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 3)}, r"tokens: expected int32 or int64, got float32"),
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, r"tokens: expected shape \[\*, \*\]"),
        ({"length": torch.tensor([1])}, r"length: expected shape \[2\], got \[1\]"),
        ({"length": torch.tensor([1, 4])}, r"length: expected 0 <= length <= 3 in sequence 1"),
        ({"length": torch.tensor([-1, 3])}, r"length: .*in sequence 0, got -1"),
        ({"k": -1}, r"k: expected k >= 0, got -1"),
        ({"least": 0}, r"least: expected least >= 1, got 0"),
        ({"most": 1, "least": 2}, r"most: expected most >= 2 \(least\), got 1"),
    ],
)
def test_refusals(change, message):
    args = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "length": torch.tensor([3, 3]), "k": 2}
    with pytest.raises(RuntimeError, match="ngram_match: " + message):
        ops.ngram_match(**args | change)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_reference_on_any_history(data):
    vocab, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    capacity, k = data.draw(st.integers(0, 70)), data.draw(st.integers(0, 6))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    tokens = torch.randint(0, vocab, (batch, capacity), generator=g)
    length = torch.randint(0, capacity + 1, (batch,), generator=g)
    least = data.draw(st.integers(1, 3))
    options = {
        "most": least + data.draw(st.integers(0, 3)),
        "least": least,
        "whole": data.draw(st.booleans()),
        "latest": data.draw(st.booleans()),
    }
    got = ops.ngram_match(tokens, length, k, **options)
    for mine, want in zip(got, ref.ngram.ngram_match(tokens, length, k, **options), strict=True):
        assert torch.equal(mine, want)
