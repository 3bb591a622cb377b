"""Values that only a GPU lets through: tree and recycle kernels ignore them, write nothing else."""

import pytest
import torch

import executor
import tokenburst as tb
from tokenburst import ref

WILD = (-(2**62), -(2**31), -2, 2**31, 2**32 + 1, 2**62)


@pytest.fixture
def ops():
    names = (
        "tree_append_",
        "tree_build",
        "tree_merge",
        "tree_commit_kv_",
        "recycle_draft",
        "recycle_update_",
    )
    with executor.running(*names, checked=True, schedule="shuffled"):
        yield tb.ops


def guarded(values, fill):
    """The values inside a larger tensor full of `fill`, and that tensor."""
    whole = torch.full([s + 4 for s in values.shape], fill, dtype=values.dtype)
    inner = whole[tuple(slice(2, s + 2) for s in values.shape)]
    inner.copy_(values)
    return inner, whole


def only_inside(whole, inner, fill):
    """Nothing but `inner` differs from the fill."""
    inner.fill_(fill)
    return bool((whole == fill).all())


@pytest.mark.parametrize("wild", [*WILD, 1, 2, 5])
def test_a_node_without_a_possible_parent_is_none(ops, wild):
    parent = torch.tensor([[-1, 0, wild, 2, 0, 3, 1], [wild, 0, 0, 1, 3, 4, wild]])
    count = torch.tensor([7, 7])
    got = ops.tree_build(parent, count)
    want = ref.tree.tree_build(parent, count)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("wild", [*WILD, 1, 2, 5])
def test_nor_is_one_where_drafts_are_merged(ops, wild):
    parent = torch.tensor([[-1, 0, wild, 2, 0, 3, 1], [wild, 0, 0, 1, 3, 4, wild]])
    tokens = torch.tensor([[wild, 4, 4, 4, 4, 4, wild], [1, 5, 5, wild, 2, 2, 2]])
    got = ops.tree_merge(tokens, parent)
    want = ref.tree.tree_merge(tokens, parent)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("wild", [w for w in WILD if abs(w) < 2**31])
def test_no_text_grows_beyond_itself(ops, wild):
    text, whole = guarded(torch.full((2, 6), 9), 77)
    state = [torch.tensor([wild, 2], dtype=torch.int32), torch.ones(2, dtype=torch.int64)]
    state += [torch.ones(2, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.int64)]
    tokens, path = torch.full((2, 4), 5), torch.tensor([[0, 1, 2, 3], [0, wild, 2, wild]])
    taken = ops.tree_append_(
        *(text, *state, torch.tensor([2**40, 2**40])),
        *(tokens, path, torch.tensor([4, 2**40]), torch.tensor([6, 6])),
    )
    assert taken.tolist() == [0, 4] and text[0].tolist() == [9] * 6
    assert text[1].tolist() == [9, 9, -1, 5, -1, 6]
    assert only_inside(whole, text, 77)


@pytest.mark.parametrize("count", [-(2**40), -1, 4, 5, 2**40])
def test_wild_node_counts(ops, count):
    parent = torch.tensor([[-1, 0, 1, 1]])
    got = ops.tree_build(parent, torch.tensor([count]))
    want = ref.tree.tree_build(parent, torch.tensor([max(0, min(count, 4))]))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("wild", [*WILD, 5, -1, 0])
def test_only_possible_rows_move(ops, wild):
    values = torch.arange(2.0 * 2 * 8 * 4).reshape(2, 2, 8, 4)
    k, whole_k = guarded(values, -1.0)
    v, whole_v = guarded(values, -1.0)
    lengths, accepted = torch.tensor([3, 3]), torch.tensor([3, 3])
    ops.tree_commit_kv_([k], [v], lengths, torch.tensor([[0, wild, 4], [0, 3, 4]]), accepted)
    assert torch.equal(k, v)
    assert torch.equal(k[0, :, [0, 1, 2, 3, 4, 5]], values[0, :, [0, 1, 2, 3, 4, 7]])
    assert torch.equal(k[1, :, [3, 4, 5]], values[1, :, [3, 6, 7]])
    assert only_inside(whole_k, k, -1.0) and only_inside(whole_v, v, -1.0)


@pytest.mark.parametrize("wild", [-(2**31), -1, 4, 2**31 - 1])
def test_rows_of_impossible_pages_stay(ops, wild):
    pool = torch.arange(4.0 * 2 * 4 * 4).reshape(4, 2, 4, 4)
    k, whole = guarded(pool, -1.0)
    table = torch.tensor([[2, wild], [0, 1]], dtype=torch.int32)
    lengths, accepted = torch.tensor([1, 1]), torch.tensor([3, 3])
    path = torch.tensor([[0, 2, 4], [0, 2, 4]])
    ops.tree_commit_kv_([k], [pool.clone()], lengths, path, accepted, page_table=table)
    want = pool.clone()
    want[2, :, 2] = pool[2, :, 3]  # row 5 of sequence 0 does not exist
    want[0, :, 2:] = torch.stack([pool[0, :, 3], pool[1, :, 1]], 1)
    assert torch.equal(k, want)
    assert only_inside(whole, k, -1.0)


@pytest.mark.parametrize("wild", [*WILD, -1, 9])
@pytest.mark.parametrize("which", ["kv_len", "n_accepted"])
def test_wild_lengths(ops, wild, which):
    values = torch.arange(8.0 * 4).reshape(1, 1, 8, 4)
    k, whole = guarded(values, -1.0)
    lengths = torch.tensor([wild if which == "kv_len" else 3])
    accepted = torch.tensor([wild if which == "n_accepted" else 2])
    ops.tree_commit_kv_([k], [values.clone()], lengths, torch.tensor([[0, 3]]), accepted)
    want = values.clone()
    if which == "n_accepted" and wild > 0:  # as many as there are
        want[:, :, 4] = values[:, :, 6]
    assert torch.equal(k, want)
    assert only_inside(whole, k, -1.0)


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("which", ["root", "parent", "rank", "group", "adjacency"])
def test_wild_drafts_have_no_tokens(ops, wild, which):
    args = {
        "adjacency": torch.arange(1, 13, dtype=torch.int32).remainder(4).reshape(1, 4, 3),
        "root": torch.tensor([1]),
        "parent": torch.tensor([-1, 0, 0, 1]),
        "rank": torch.tensor([0, 1, 2, 0]),
        "group": torch.tensor([0]),
    }
    want = ref.recycle.recycle_draft(**args)
    if which == "adjacency":
        args["adjacency"][0, 1, 1] = max(-(2**31), min(wild, 2**31 - 1))
    else:
        args[which][{"parent": 1, "rank": 1}.get(which, 0)] = wild
    got = ops.recycle_draft(**args)
    dead = [1, 3] if which in ("parent", "rank", "adjacency") else [1, 2, 3]
    want[0, dead] = -1
    if which == "root":
        want[0, 0] = -1
    assert torch.equal(got, want)


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("which", ["tokens", "n_nodes", "group", "first_id", "later_id"])
def test_wild_lessons_are_not_learnt(ops, wild, which):
    adjacency, whole = guarded(torch.zeros(2, 4, 2, dtype=torch.int32), 77)
    args = {
        "tokens": torch.tensor([[1, 2]]),
        "ids": torch.tensor([[[3, 2], [1, 0]]]),
        "n_nodes": torch.tensor([2]),
        "group": torch.tensor([1]),
    }
    want = torch.zeros(2, 4, 2, dtype=torch.int32)
    want[1, 1], want[1, 2] = torch.tensor([3, 2]), torch.tensor([1, 0])
    if which == "first_id":
        args["ids"][0, 0, 0] = wild
    elif which == "later_id":
        args["ids"][0, 0, 1] = wild
        want[1, 1, 1] = -1
    else:
        args[which].view(-1)[0] = wild
    if which in ("tokens", "first_id"):
        want[1, 1] = 0
    if which == "group" or (which == "n_nodes" and wild < 0):
        want.zero_()
    ops.recycle_update_(adjacency, **args)
    assert torch.equal(adjacency, want)
    assert only_inside(whole, adjacency, 77)


@pytest.mark.parametrize("nodes", [4096, 4097])
def test_the_largest_tree_is_said(ops, nodes):
    root, chain = torch.zeros(1, nodes, dtype=torch.int64), torch.zeros(nodes, dtype=torch.int64)
    root[0, 0] = chain[0] = -1
    matrix = torch.zeros(1, 1, dtype=torch.int32)
    calls = [
        lambda: ops.tree_build(root, torch.tensor([nodes])),
        lambda: ops.recycle_draft(matrix, torch.tensor([0]), chain, chain.clamp(min=0)),
    ]
    for call in calls:
        if nodes == 4096:
            call()
        else:
            with pytest.raises(RuntimeError, match="at most 4096 nodes on a GPU, got 4097"):
                call()
