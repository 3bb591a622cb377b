"""What the samples cannot say about `tree_merge`: messages, a tree by hand, properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops


@pytest.mark.parametrize(
    ("tokens", "parent", "message"),
    [
        (torch.zeros(1, 2), torch.tensor([[-1, 0]]), "tokens: expected int32 or int64, got flo"),
        (torch.tensor([1, 2]), torch.tensor([[-1, 0]]), r"tokens: expected shape \[\*, \*\]"),
        (torch.tensor([[1, 2]]), torch.tensor([[-1]]), r"parent: expected shape \[1, 2\], got"),
        (torch.tensor([[1, 2]]), torch.tensor([[-1, 1]]), "parent: expected a topological order"),
        (torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), "parent: expected -1 at the root"),
    ],
    ids=["dtype", "dims", "shape", "own-parent", "root-has-parent"],
)
def test_refusals(tokens, parent, message):
    with pytest.raises(RuntimeError, match="tree_merge: " + message):
        ops.tree_merge(tokens, parent)


def test_by_hand():
    # Two drafts below one root: 7 -> 8 -> 9 and 7 -> 8 -> 5, then 6 below a token that is none.
    tokens = torch.tensor([[3, 7, 8, 9, 7, 8, 5, -1, 6]])
    parent = torch.tensor([[-1, 0, 1, 2, 0, 4, 5, 0, 7]])
    merged = ops.tree_merge(tokens, parent)
    assert merged.tokens.tolist() == [[3, 7, 8, 9, -1, -1, 5, -1, -1]]
    assert merged.parent.tolist() == [[-1, 0, 1, 2, 0, 1, 2, 0, 0]]
    assert merged.node.tolist() == [[0, 1, 2, 3, 1, 2, 6, -1, -1]]


def texts(tokens, parent):
    """Of each node that is one: the tokens from the root down to it."""
    known = {0: ()}
    for i in range(1, len(tokens)):
        if tokens[i] >= 0 and parent[i] in known:
            known[i] = (*known[parent[i]], tokens[i])
    return known


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_same_texts_each_once(data):
    nodes = data.draw(st.integers(1, 40))
    parent = [-1] + [data.draw(st.integers(0, i - 1)) for i in range(1, nodes)]
    tokens = [data.draw(st.integers(-1, 2)) for _ in range(nodes)]
    merged = ops.tree_merge(torch.tensor([tokens]), torch.tensor([parent]))
    before = texts(tokens, parent)
    after = texts(merged.tokens[0].tolist(), merged.parent[0].tolist())
    assert set(after.values()) == set(before.values())
    assert len(set(after.values())) == len(after)
    again = ops.tree_merge(merged.tokens, merged.parent)
    assert torch.equal(again.tokens, merged.tokens)
    for node, text in before.items():
        assert after[int(merged.node[0, node])] == text
    assert all(int(merged.node[0, i]) == -1 for i in range(nodes) if i not in before)


def test_a_sequence_does_not_feel_its_neighbours():
    tokens = torch.tensor([[1, 2, 2, 3], [1, 2, 2, -1], [4, 4, 4, 4]])
    parent = torch.tensor([[-1, 0, 0, 2], [-1, 0, 1, 1], [-1, 0, 0, 0]])
    together = ops.tree_merge(tokens, parent)
    for b in range(3):
        alone = ops.tree_merge(tokens[b : b + 1], parent[b : b + 1])
        assert all(torch.equal(x[b : b + 1], y) for x, y in zip(together, alone, strict=True))
