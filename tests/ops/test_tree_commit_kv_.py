"""What the samples cannot say about `tree_commit_kv_`: messages, what stays untouched, compile."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref


def arguments(**change):
    args = {
        "k_caches": [torch.zeros(2, 1, 8, 4)],
        "v_caches": [torch.zeros(2, 1, 8, 4)],
        "kv_len": torch.tensor([3, 3]),
        "path": torch.tensor([[0, 2, -1], [0, 1, 4]]),
        "n_accepted": torch.tensor([2, 3]),
    }
    return (args | change).values()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_caches": []}, r"v_caches: expected as many layers as k_caches \(1\), got 0"),
        (
            {"k_caches": [torch.zeros(2, 1, 8, 4, dtype=torch.int32)]},
            r"k_caches\[0\]: expected float32, float16 or bfloat16, got int32",
        ),
        (
            {"v_caches": [torch.zeros(2, 1, 9, 4)]},
            r"v_caches\[0\]: expected shape \[2, \*, 8, \*\], got \[2, 1, 9, 4\]",
        ),
        (
            {"k_caches": [torch.zeros(2, 1, 4, 8).transpose(2, 3)]},
            r"k_caches\[0\]: expected a contiguous last dimension, got stride 8",
        ),
        (
            {"v_caches": [torch.zeros(1, 1, 8, 4).expand(2, 1, 8, 4)]},
            r"v_caches\[0\]: expected a tensor of its own memory, got one expanded in dimension 0",
        ),
        ({"n_accepted": torch.tensor([2, 4])}, r"n_accepted: .*<= 3 in sequence 1, got 4"),
        ({"n_accepted": torch.tensor([-1, 1])}, r"n_accepted: .*in sequence 0, got -1"),
        ({"kv_len": torch.tensor([3, -1])}, r"kv_len: expected 0 <= kv_len <= 8 .*got -1"),
        (
            {"path": torch.tensor([[0, 2, -1], [0, 2, 2]])},
            r"path: expected ascending nodes .*place 2 in sequence 1, got 2",
        ),
        (
            {"path": torch.tensor([[-1, 2, -1], [0, 1, 2]])},
            r"path: expected ascending nodes .*place 0 in sequence 0, got -1",
        ),
        (
            {"path": torch.tensor([[0, 5, -1], [0, 1, 2]])},
            r"path: expected kv_len \+ path < 8 in sequence 0, got 3 \+ 5",
        ),
    ],
    ids=[
        "layers",
        "dtype",
        "capacity",
        "strides",
        "expanded",
        "count-too-large",
        "count-negative",
        "kv-len",
        "not-ascending",
        "padding-accepted",
        "past-the-cache",
    ],
)
def test_refusals_write_nothing(change, message):
    k, v, *rest = arguments(**change)
    for cache in (*k, *v):
        if 0 not in cache.stride():
            cache.copy_(torch.arange(cache.numel()).reshape(cache.shape))
    before = [cache.clone() for cache in (*k, *v)]
    with pytest.raises(RuntimeError, match="tree_commit_kv_: " + message):
        ops.tree_commit_kv_(k, v, *rest)
    assert all(torch.equal(a, b) for a, b in zip((*k, *v), before, strict=True))


def test_refuses_pages_that_do_not_exist():
    pool = torch.arange(3.0 * 4).reshape(3, 1, 4, 1)
    args = torch.tensor([2]), torch.tensor([[0, 3, 5]]), torch.tensor([3])
    before = pool.clone()
    for table, place in (([-1, 1], 0), ([0, 3], 1)):
        with pytest.raises(
            RuntimeError, match=f"page_table: .* < 3 at place {place} in sequence 0"
        ):
            ops.tree_commit_kv_(
                [pool], [pool.clone()], *args, page_table=torch.tensor([table]).int()
            )
    assert torch.equal(pool, before)


def test_by_hand():
    k = torch.arange(8.0).reshape(1, 1, 8, 1)
    v = k + 10
    inputs = torch.tensor([2]), torch.tensor([[0, 3, 4, -1]]), torch.tensor([3])
    ops.tree_commit_kv_([k], [v], *inputs)
    assert k.flatten().tolist() == [0, 1, 2, 5, 6, 5, 6, 7]
    assert v.flatten().tolist() == [10, 11, 12, 15, 16, 15, 16, 17]


def test_caches_may_differ_in_heads_width_and_dtype():
    k = [torch.rand(1, 2, 6, 3), torch.rand(1, 5, 6, 8).bfloat16()]
    v = [torch.rand(1, 2, 6, 4).half(), torch.rand(1, 1, 6, 8)]
    inputs = torch.tensor([1]), torch.tensor([[0, 2, 4]]), torch.tensor([3])
    want = [[cache.clone() for cache in caches] for caches in (k, v)]
    ops.tree_commit_kv_(k, v, *inputs)
    ref.tree.tree_commit_kv_(*want, *inputs)
    assert all(torch.equal(a, b) for a, b in zip((*k, *v), (*want[0], *want[1]), strict=True))


def test_compiles():
    def step(keys, values, kv_len, path, n_accepted):
        ops.tree_commit_kv_(keys, values, kv_len, path, n_accepted)
        return keys[0].sum() + values[1].sum()

    k = [torch.rand(2, 1, 8, 4) for _ in range(2)]
    v = [torch.rand(2, 1, 8, 4) for _ in range(2)]
    want = [[cache.clone() for cache in caches] for caches in (k, v)]
    rest = list(arguments())[2:]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(k, v, *rest), step(*want, *rest))
    assert all(torch.equal(a, b) for a, b in zip((*k, *v), (*want[0], *want[1]), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_moves_exactly_the_accepted_rows(data):
    capacity = data.draw(st.integers(1, 30))
    length = data.draw(st.integers(0, capacity - 1))
    path = sorted(data.draw(st.sets(st.integers(0, capacity - length - 1))))
    heads, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    cache = torch.rand(1, heads, capacity, width)
    before = cache.clone()
    padded = torch.tensor([[*path, -1]])
    count = torch.tensor([len(path)])
    ops.tree_commit_kv_([cache], [cache.clone()], torch.tensor([length]), padded, count)
    rows = list(range(capacity))
    rows[length : length + len(path)] = [length + node for node in path]
    assert torch.equal(cache, before[:, :, rows])
