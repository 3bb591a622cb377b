"""What the samples cannot say about `recycle_update_`: messages, who wins, what stays untouched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref


def unseen(*shape):
    return torch.full(shape, -1, dtype=torch.int32)


def test_the_last_of_equal_tokens_wins():
    adjacency = unseen(6, 2)
    tokens = torch.tensor([[1, 2, 3, 3, 1, 1]])
    ids = torch.tensor([[[i, i - 1 if i else 5] for i in range(6)]])
    ops.recycle_update_(adjacency, tokens, ids)
    # Row 1 from node 5, row 2 from node 1, row 3 from node 3.
    assert adjacency.tolist() == [[-1, -1], [5, 4], [1, 0], [3, 2], [-1, -1], [-1, -1]]


def test_a_later_sequence_wins_over_a_later_node():
    adjacency = unseen(4, 1)
    ids = torch.tensor([[[1], [2]], [[3], [0]]])
    ops.recycle_update_(adjacency, torch.tensor([[0, 0], [0, -1]]), ids)
    assert adjacency[0].tolist() == [3]


def test_groups_do_not_compete():
    adjacency = unseen(2, 4, 1)
    tokens, ids = torch.zeros(3, 1, dtype=torch.int64), torch.tensor([[[1]], [[2]], [[3]]])
    ops.recycle_update_(adjacency, tokens, ids, group=torch.tensor([1, 0, 1]))
    assert adjacency[:, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("tokens", "ids", "n_nodes"),
    [
        ([[0, 0]], [[[1, 2], [3, 3]]], [1]),
        ([[0, 4]], [[[1, 2], [3, 3]]], None),
        ([[0, -1]], [[[1, 2], [3, 3]]], None),
        ([[0, 0]], [[[1, 2], [-1, 3]]], None),
    ],
    ids=["past-n-nodes", "foreign-token", "no-token", "no-finite-logit"],
)
def test_who_takes_no_part_wins_nothing(tokens, ids, n_nodes):
    adjacency = unseen(4, 2)
    count = None if n_nodes is None else torch.tensor(n_nodes)
    ops.recycle_update_(adjacency, torch.tensor(tokens), torch.tensor(ids), n_nodes=count)
    assert adjacency.tolist() == [[1, 2], [-1, -1], [-1, -1], [-1, -1]]


def test_missing_ids_are_forgotten_and_further_ids_ignored():
    adjacency = torch.ones(4, 2, dtype=torch.int32)
    ops.recycle_update_(adjacency, torch.tensor([[2]]), torch.tensor([[[3, -1, 99]]]))
    assert adjacency.tolist() == [[1, 1], [1, 1], [3, -1], [1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjacency": torch.zeros(4, 2)}, r"adjacency: expected int32, got float32"),
        (
            {"adjacency": unseen(1, 2).expand(4, 2)},
            r"adjacency: expected a tensor of its own memory, got one expanded in dimension 0",
        ),
        ({"tokens": torch.zeros(2)}, r"tokens: expected int32 or int64, got float32"),
        (
            {"ids": torch.zeros(2, 3, 1, dtype=torch.int64)},
            r"ids: expected at least 2 ids per node, got 1",
        ),
        (
            {"ids": torch.zeros(2, 4, 2, dtype=torch.int64)},
            r"ids: expected shape \[2, 3, \*\], got \[2, 4, 2\]",
        ),
        (
            {"ids": torch.full((2, 3, 2), 4)},
            r"ids: expected -1 <= ids < 4 at node 0 of sequence 0, got 4",
        ),
        ({"ids": torch.full((2, 3, 2), -2)}, r"ids: .*got -2"),
        ({"n_nodes": torch.tensor([3, 4])}, r"n_nodes: .*<= 3 in sequence 1, got 4"),
        ({"group": torch.tensor([0, 0])}, r"group: expected none beside"),
        (
            {"adjacency": unseen(1, 4, 2), "group": torch.tensor([0, -1])},
            r"group: expected 0 <= group < 1 in sequence 1, got -1",
        ),
    ],
    ids=[
        "adjacency-dtype",
        "adjacency-expanded",
        "tokens-dtype",
        "too-few-ids",
        "ids-shape",
        "ids-high",
        "ids-low",
        "count",
        "group-superfluous",
        "group-range",
    ],
)
def test_refusals_write_nothing(change, message):
    args = {
        "adjacency": unseen(4, 2),
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "ids": torch.ones(2, 3, 2, dtype=torch.int64),
        "n_nodes": None,
        "group": None,
    } | change
    before = args["adjacency"].clone()
    with pytest.raises(RuntimeError, match="recycle_update_: " + message):
        ops.recycle_update_(**args)
    assert torch.equal(args["adjacency"], before)


def test_ids_of_padding_nodes_are_not_checked():
    adjacency = unseen(4, 1)
    ids = torch.tensor([[[2], [99]]])
    ops.recycle_update_(adjacency, torch.tensor([[0, 1]]), ids, n_nodes=torch.tensor([1]))
    assert adjacency.flatten().tolist() == [2, -1, -1, -1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draft_after_update_repeats_what_was_taught(data):
    vocab, ranks = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    batch, nodes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 30))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    tokens = torch.randint(-1, vocab + 1, (batch, nodes), generator=g)
    ids = torch.randint(-1, vocab, (batch, nodes, ranks), generator=g)
    adjacency = unseen(vocab, ranks)
    ops.recycle_update_(adjacency, tokens, ids)
    want = unseen(vocab, ranks)
    ref.recycle.recycle_update_(want, tokens, ids)
    assert torch.equal(adjacency, want)
    star = torch.tensor([-1] + [0] * ranks), torch.tensor([0, *range(ranks)])
    drafted = ops.recycle_draft(adjacency, torch.arange(vocab), *star)
    assert torch.equal(drafted[:, 1:], want.long())
