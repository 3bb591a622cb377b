"""What the samples cannot say about `tree_build`: messages, a tree by hand, properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops


@pytest.mark.parametrize(
    ("parent", "n_nodes", "message"),
    [
        (torch.zeros(2, 3), [3, 3], r"parent: expected int32 or int64, got float32"),
        (torch.tensor([-1, 0]), [2], r"parent: expected shape \[\*, \*\], got \[2\]"),
        (torch.tensor([[-1, 0]]), [2, 2], r"n_nodes: expected shape \[1\], got \[2\]"),
        (torch.tensor([[-1, 0]]), [3], r"n_nodes: expected 0 <= n_nodes <= 2 .*got 3"),
        (torch.tensor([[-1, 1]]), [2], r"parent: expected a topological order.* node 1.*got 1"),
        (torch.tensor([[-1, -1]]), [2], r"parent: expected a topological order.* node 1.*got -1"),
        (torch.tensor([[0, 0]]), [2], r"parent: expected -1 at the root.*got 0"),
    ],
    ids=["dtype", "dims", "batch", "count", "own-parent", "two-roots", "root-has-parent"],
)
def test_refusals(parent, n_nodes, message):
    with pytest.raises(RuntimeError, match="tree_build: " + message):
        ops.tree_build(parent, torch.tensor(n_nodes))


def test_by_hand():
    #      0
    #    / | \
    #   1  2  4      5 is past the end
    #      |
    #      3
    tree = ops.tree_build(torch.tensor([[-1, 0, 0, 2, 0, 3]]), torch.tensor([5]))
    assert tree.depth.tolist() == [[0, 1, 1, 2, 1, -1]]
    assert tree.first_child.tolist() == [[1, -1, 3, -1, -1, -1]]
    assert tree.next_sibling.tolist() == [[-1, 2, 4, -1, -1, -1]]
    assert tree.ancestors.flatten().tolist() == [0b1, 0b11, 0b101, 0b1101, 0b10001, 0]


def test_bit_31_is_the_sign():
    chain = torch.arange(-1, 32)[None]
    ancestors = ops.tree_build(chain, torch.tensor([33])).ancestors
    assert ancestors[0, 31].tolist() == [-1, 0]
    assert ancestors[0, 32].tolist() == [-1, 1]


def test_equal_siblings_stay_apart():
    star = ops.tree_build(torch.tensor([[-1, 0, 0, 0]]), torch.tensor([4]))
    assert star.next_sibling.tolist() == [[-1, 2, 3, -1]]
    assert star.ancestors.flatten().tolist() == [1, 3, 5, 9]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_links_and_masks_tell_the_same_tree(data):
    nodes = data.draw(st.integers(1, 70))
    parent = [-1] + [data.draw(st.integers(0, i - 1)) for i in range(1, nodes)]
    count = data.draw(st.integers(0, nodes))
    tree = ops.tree_build(torch.tensor([parent]), torch.tensor([count]))
    bits = (tree.ancestors[0].unsqueeze(-1) >> torch.arange(32)) & 1
    visible = bits.flatten(1)[:, :nodes].bool()
    for i in range(count):
        above = [i]
        while above[-1] > 0:
            above.append(parent[above[-1]])
        assert visible[i].nonzero().flatten().tolist() == above[::-1]
        assert tree.depth[0, i] == len(above) - 1
        child, children = int(tree.first_child[0, i]), []
        while child >= 0:
            children.append(child)
            child = int(tree.next_sibling[0, child])
        assert children == [j for j in range(count) if parent[j] == i]
    assert not visible[count:].any()
    for links in (tree.depth, tree.first_child, tree.next_sibling):
        assert (links[0, count:] == -1).all()


def test_a_sequence_does_not_feel_its_neighbours():
    parents = torch.tensor([[-1, 0, 1, 0], [-1, 0, 0, 0], [-1, 0, 1, 2]])
    counts = torch.tensor([4, 2, 3])
    together = ops.tree_build(parents, counts)
    for b in range(3):
        alone = ops.tree_build(parents[b : b + 1], counts[b : b + 1])
        assert all(torch.equal(x[b : b + 1], y) for x, y in zip(together, alone, strict=True))
