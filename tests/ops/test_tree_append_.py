"""What the samples cannot say about `tree_append_`: messages, a batch by hand, nothing beyond."""

import pytest
import torch

from tokenburst import ops


def batch():
    """Three sequences: one goes on, one meets its limit, one is done."""
    return {
        "text": torch.full((3, 8), 9),
        "length": torch.tensor([2, 3, 4], dtype=torch.int32),
        "root": torch.tensor([1, 1, 1]),
        "active": torch.tensor([True, True, False]),
        "rng": torch.tensor([[5, 0, 1], [5, 1, 2], [5, 2, 3]]),
        "end": torch.tensor([8, 5, 4]),
        "tokens": torch.tensor([[1, 2, 3, 4]] * 3),
        "path": torch.tensor([[0, 2, 3, -1], [0, 1, 2, -1], [-1, -1, -1, -1]]),
        "n_accepted": torch.tensor([3, 3, 0]),
        "next_token": torch.tensor([7, 7, -1]),
    }


def test_by_hand():
    args = batch()
    taken = ops.tree_append_(**args)
    assert taken.tolist() == [3, 2, 0]
    assert args["text"][0].tolist() == [9, 9, 3, 4, 7, 9, 9, 9]
    assert args["text"][1].tolist() == [9, 9, 9, 2, 3, 9, 9, 9]
    assert args["text"][2].tolist() == [9] * 8
    assert args["length"].tolist() == [5, 5, 4] and args["rng"][:, 2].tolist() == [4, 4, 3]
    assert args["active"].tolist() == [True, False, False]
    assert args["root"].tolist() == [7, 1, 1]


def test_nothing_behind_the_first_end():
    args = batch()
    taken = ops.tree_append_(**args, eos=torch.tensor([4, 2]))
    assert taken.tolist() == [2, 1, 0] and not args["active"].any()
    assert args["text"][0].tolist() == [9, 9, 3, 4, 9, 9, 9, 9]


def test_a_cache_grows_with_the_text():
    kv_len = torch.tensor([1, 0, 7], dtype=torch.int32)
    taken = ops.tree_append_(**batch(), eos=torch.tensor([4]), kv_len=kv_len)
    assert taken.tolist() == [2, 2, 0] and kv_len.tolist() == [3, 2, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": torch.zeros(3, 8)}, "text: expected int64, got float32"),
        ({"text": torch.zeros(8, 3, dtype=torch.int64).t()}, "text: expected .*contiguous"),
        ({"text": torch.zeros(1, 8, dtype=torch.int64).expand(3, -1)}, "text: expected"),
        ({"length": torch.tensor([2, 3, 4])}, "length: expected int32, got int64"),
        ({"rng": torch.zeros(3, 6, dtype=torch.int64)[:, ::2]}, "rng: expected a contiguous ten"),
        ({"active": torch.zeros(3)}, "active: expected bool"),
        ({"kv_len": torch.tensor([1, 2, 3])}, "kv_len: expected int32, got int64"),
        ({"kv_len": torch.zeros(6, dtype=torch.int32)[::2]}, "kv_len: expected a contiguous ten"),
        ({"path": torch.zeros(3, 3, dtype=torch.int64)}, r"path: expected shape \[3, 4\]"),
        ({"length": torch.tensor([9, 0, 0], dtype=torch.int32)}, "length: expected 0 <= length <="),
        ({"n_accepted": torch.tensor([5, 0, 0])}, "n_accepted: expected 0 <= n_accepted <= 4"),
        ({"path": torch.full((3, 4), 4)}, "path: expected 0 <= path < 4"),
    ],
)
def test_refusals(changes, message):
    args = batch() | changes
    before = {name: t.clone() for name, t in args.items()}
    with pytest.raises(RuntimeError, match="tree_append_: " + message):
        ops.tree_append_(**args)
    assert all(torch.equal(args[name], t) for name, t in before.items())
