"""What the samples cannot say about `recycle_draft`: messages, an example by hand, properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref

# A six-token matrix whose draft repeats tokens among siblings, cousins and the root.
MATRIX = torch.tensor([[0, 0], [2, 3], [3, 1], [1, 4], [5, 5], [0, 2]], dtype=torch.int32)
PARENT, RANK = torch.tensor([-1, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 0, 1, 0])


def test_by_hand():
    tokens = ops.recycle_draft(MATRIX, torch.tensor([1, -1]), PARENT, RANK)
    assert tokens.tolist() == [[1, 2, 3, 3, 1, 1], [-1] * 6]
    assert tokens.dtype == torch.int64


def test_groups_choose_the_matrix():
    both = torch.stack([MATRIX, MATRIX.flip(1)])
    root, group = torch.tensor([1, 1]), torch.tensor([1, 0])
    tokens = ops.recycle_draft(both, root, PARENT, RANK, group=group)
    assert tokens.tolist() == [[1, 3, 2, 4, 1, 1], [1, 2, 3, 3, 1, 1]]


def test_unknown_successors_end_their_branch():
    matrix = MATRIX.clone()
    matrix[2] = torch.tensor([-1, 6])
    tokens = ops.recycle_draft(matrix, torch.tensor([1]), PARENT, RANK)
    assert tokens.tolist() == [[1, 2, 3, -1, -1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjacency": MATRIX.long()}, r"adjacency: expected int32, got int64"),
        (
            {"adjacency": MATRIX[0]},
            r"adjacency: expected shape \[\*, \*\], got \[2\]",
        ),
        (
            {"adjacency": MATRIX.t()},
            r"adjacency: expected a contiguous last dimension, got stride 2",
        ),
        ({"adjacency": MATRIX[None]}, r"group: expected an index per sequence .*got none"),
        ({"group": torch.tensor([0])}, r"group: expected none beside .*got \[1\]"),
        (
            {"adjacency": MATRIX[None], "group": torch.tensor([1])},
            r"group: expected 0 <= group < 1 in sequence 0, got 1",
        ),
        ({"root": torch.tensor([6])}, r"root: expected -1 <= root < 6 in sequence 0, got 6"),
        ({"root": torch.tensor([-2])}, r"root: .*got -2"),
        ({"rank": torch.tensor([0, 0, 2, 0, 1, 0])}, r"rank: expected 0 <= rank < 2 at node 2"),
        ({"rank": torch.tensor([0, 0])}, r"rank: expected shape \[6\], got \[2\]"),
        (
            {"parent": torch.tensor([-1, 0, 2, 1, 1, 2])},
            r"parent: expected a topological order, 0 <= parent < 2 at node 2, got 2",
        ),
        ({"parent": torch.tensor([0, 0, 0, 1, 1, 2])}, r"parent: expected -1 at the root"),
    ],
    ids=[
        "dtype",
        "dims",
        "strides",
        "group-missing",
        "group-superfluous",
        "group-range",
        "root-high",
        "root-low",
        "rank-range",
        "rank-shape",
        "parent-order",
        "root-has-parent",
    ],
)
def test_refusals(change, message):
    args = {
        "adjacency": MATRIX,
        "root": torch.tensor([1]),
        "parent": PARENT,
        "rank": RANK,
        "group": None,
    } | change
    group = args.pop("group")
    with pytest.raises(RuntimeError, match="recycle_draft: " + message):
        ops.recycle_draft(*args.values(), group=group)


def test_rank_of_the_root_is_not_read():
    rank = RANK.clone()
    rank[0] = 1000
    assert ops.recycle_draft(MATRIX, torch.tensor([1]), PARENT, rank)[0, 1] == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_reference_on_any_template(data):
    vocab, ranks = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    nodes, batch = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    adjacency = torch.randint(-1, vocab + 1, (vocab, ranks), generator=g, dtype=torch.int32)
    parent = torch.tensor([-1] + [data.draw(st.integers(0, i - 1)) for i in range(1, nodes)])
    rank = torch.randint(0, ranks, (nodes,), generator=g)
    root = torch.randint(-1, vocab, (batch,), generator=g)
    got = ops.recycle_draft(adjacency, root, parent, rank)
    assert torch.equal(got, ref.recycle.recycle_draft(adjacency, root, parent, rank))
    for b in range(batch):
        alone = ops.recycle_draft(adjacency, root[b : b + 1], parent, rank)
        assert torch.equal(got[b : b + 1], alone)
