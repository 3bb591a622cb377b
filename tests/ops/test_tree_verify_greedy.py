"""What the samples cannot say about `tree_verify_greedy`: messages and properties."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref


def call(tokens, argmax, parent, n_nodes, **kwargs):
    return ops.tree_verify_greedy(
        torch.tensor(tokens),
        torch.tensor(argmax),
        torch.tensor(parent),
        torch.tensor(n_nodes),
        **kwargs,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 3)}, r"tokens: expected int32 or int64, got float32"),
        (
            {"argmax": torch.zeros(2, 4, dtype=torch.int64)},
            r"argmax: expected shape \[2, 3\], got \[2, 4\]",
        ),
        (
            {"parent": torch.tensor([[-1, 2, 0]] * 2)},
            r"parent: expected a topological order.* node 1.*got 2",
        ),
        ({"parent": torch.tensor([[0, 0, 0]] * 2)}, r"parent: expected -1 at the root.*got 0"),
        (
            {"n_nodes": torch.tensor([3, 4])},
            r"n_nodes: expected 0 <= n_nodes <= 3 in sequence 1, got 4",
        ),
        ({"n_nodes": torch.tensor([-1, 3])}, r"n_nodes: .*sequence 0, got -1"),
        (
            {"argmax": torch.zeros(2, 3, 0, dtype=torch.int64)},
            "argmax: expected at least one token per node, got 0",
        ),
        (
            {"argmax": torch.zeros(2, 4, 2, dtype=torch.int64)},
            r"argmax: expected shape \[2, 3, \*\], got \[2, 4, 2\]",
        ),
        ({"eos": torch.tensor([0.5])}, r"eos: expected int32 or int64, got float32"),
    ],
    ids=[
        "dtype",
        "shape",
        "not-topological",
        "root-has-parent",
        "count-too-large",
        "count-negative",
        "no-ranks",
        "shape-of-ranks",
        "eos-dtype",
    ],
)
def test_refusals(change, message):
    args = {
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "argmax": torch.zeros(2, 3, dtype=torch.int64),
        "parent": torch.tensor([[-1, 0, 1]] * 2),
        "n_nodes": torch.tensor([3, 3]),
        "eos": None,
    } | change
    eos = args.pop("eos")
    with pytest.raises(RuntimeError, match="tree_verify_greedy: " + message):
        ops.tree_verify_greedy(*args.values(), eos=eos)


def test_longest_path_beats_first_match():
    # Two children carry the right token; only the second leads further.
    got = call([[7, 5, 5, 6]], [[5, 9, 6, 8]], [[-1, 0, 0, 2]], [4])
    assert got.path.tolist() == [[0, 2, 3, -1]]
    assert (got.n_accepted.item(), got.next_token.item()) == (3, 8)


def test_ties_go_to_the_lowest_node():
    assert call([[7, 5, 5]], [[5, 1, 2]], [[-1, 0, 0]], [3]).path.tolist() == [[0, 1, -1]]


def test_nothing_is_accepted_below_eos():
    chain = ([[7, 2, 3]], [[2, 3, 4]], [[-1, 0, 1]], [3])
    assert call(*chain).n_accepted.item() == 3
    stopped = call(*chain, eos=torch.tensor([2]))
    assert (stopped.n_accepted.item(), stopped.next_token.item()) == (2, 3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_accepted_path_is_what_greedy_would_write(data):
    nodes = data.draw(st.integers(1, 40))
    tokens = data.draw(st.lists(st.integers(-1, 2), min_size=nodes, max_size=nodes))
    argmax = data.draw(st.lists(st.integers(0, 2), min_size=nodes, max_size=nodes))
    parent = [-1] + [data.draw(st.integers(0, i - 1)) for i in range(1, nodes)]
    count = data.draw(st.integers(0, nodes))
    args = [torch.tensor([x]) for x in (tokens, argmax, parent)] + [torch.tensor([count])]
    got, want = ops.tree_verify_greedy(*args), ref.tree.tree_verify_greedy(*args)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    path = [n for n in got.path[0].tolist() if n >= 0]
    for above, node in itertools.pairwise(path):
        assert parent[node] == above and tokens[node] == argmax[above]
