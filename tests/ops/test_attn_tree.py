"""What the samples cannot say about `attn_tree`: messages, exactness along paths, odd shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agreement import assert_same
from samples.attention import ancestor_bits, attend, draw, sample
from samples.tree import random_tree
from tokenburst import _C, ops, ref


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 4, 3, 16).double()}, "q: expected float32, float16 or bfloat16"),
        ({"q": torch.zeros(1, 3, 3, 16)}, "q: expected a multiple of the 2 heads .*got 3"),
        ({"k_cache": torch.zeros(1, 2, 9, 8)}, r"k_cache: expected shape \[1, \*, \*, 16\]"),
        ({"v_cache": torch.zeros(1, 2, 8, 16)}, r"v_cache: expected shape \[1, 2, 9, 16\]"),
        ({"v_cache": torch.zeros(1, 2, 9, 16).half()}, "v_cache: expected the dtype of q"),
        ({"k_cache": torch.zeros(1, 2, 16, 9).mT}, "k_cache: expected a contiguous last dim"),
        ({"kv_len": torch.tensor([-1])}, "kv_len: expected 0 <= kv_len in sequence 0, got -1"),
        ({"kv_len": torch.tensor([7])}, "kv_len: expected at most 6 .*tree larger than the cache"),
        ({"kv_len": torch.tensor([2.0])}, "kv_len: expected int32 or int64, got float32"),
        ({"n_nodes": torch.tensor([4])}, "n_nodes: expected 0 <= n_nodes <= 3 in sequence 0"),
        ({"ancestors": torch.zeros(1, 3, 2).int()}, r"ancestors: expected shape \[1, 3, 1\]"),
        ({"ancestors": torch.zeros(1, 3, 1).long()}, "ancestors: expected int32, got int64"),
        ({"window": 0}, "window: expected at least 1 key, got 0"),
    ],
)
def test_refusals(change, message):
    args = {
        "q": torch.zeros(1, 4, 3, 16),
        "k_cache": torch.zeros(1, 2, 9, 16),
        "v_cache": torch.zeros(1, 2, 9, 16),
        "kv_len": torch.tensor([2]),
    } | change
    with pytest.raises(RuntimeError, match="attn_tree: " + message):
        ops.attn_tree(**args)


@pytest.mark.parametrize("dim", [4, 12, 264])
def test_refuses_head_dims(dim):
    q = torch.zeros(1, 1, 1, dim)
    with pytest.raises(RuntimeError, match=f"head dim of 8, 16, 24, ... 256, got {dim}"):
        ops.attn_tree(q, q, q, torch.tensor([0]))


def path_of(parents, node):
    path = []
    while node >= 0:
        path.insert(0, node)
        node = parents[node]
    return path


@pytest.mark.parametrize("window", [None, 1, 7, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kv", [0, 1, 63, 64, 65, 300])
def test_a_node_equals_its_path_decoded_alone(kv, dtype, window, isa):
    """Tree, chain, prefill and single token: the same bits, whatever surrounds the path."""
    g = torch.Generator().manual_seed(kv)
    heads, kv_heads, nodes, dim = 5, 1, 81, 40
    parents = random_tree(nodes, g)
    parents[60:] = range(59, nodes - 1)  # a long branch crosses tiles
    q = draw(g, dtype, 2, heads, nodes, dim)
    k, v = (draw(g, dtype, 2, kv_heads, kv + nodes + 5, dim) for _ in range(2))
    bits = ancestor_bits(parents).expand(2, -1, -1)
    lengths = torch.tensor([kv, kv // 2])
    tree = ops.attn_tree(q, k, v, lengths, ancestors=bits, window=window)
    for node in (0, 1, 40, 80):
        path = path_of(parents, node)
        rows = torch.tensor([*range(kv), *(kv + i for i in path)])
        chain_q, chain_k, chain_v = q[:1, :, path], k[:1, :, rows], v[:1, :, rows]
        want = tree.out[:1, :, node], tree.lse[:1, :, node]
        last = chain_q[:, :, -1:]
        alone = torch.tensor([len(rows) - 1])
        own = torch.tensor([[[1]]], dtype=torch.int32)
        prefill = torch.zeros(1, heads, len(rows), dim, dtype=dtype)
        prefill[:, :, -1:] = last
        wider = torch.cat([chain_k, chain_v.flip(2)], 3)[..., :dim]  # other strides
        results = {
            "chain": ops.attn_tree(chain_q, chain_k, chain_v, torch.tensor([kv]), window=window),
            "single": ops.attn_tree(last, chain_k, chain_v, alone, window=window),
            "tree of one": ops.attn_tree(last, wider, chain_v, alone, ancestors=own, window=window),
            "prefill": ops.attn_tree(prefill, chain_k, chain_v, torch.tensor([0]), window=window),
        }
        if window != 1:  # both ways a window does not count the query itself
            both = window and window - 1
            results["full"] = ops.attn_tree(
                last, chain_k, chain_v, alone, causal=False, window=both
            )
        for name, got in results.items():
            assert torch.equal(got.out[:, :, -1], want[0]), (name, node)
            assert torch.equal(got.lse[:, :, -1], want[1]), (name, node)


@pytest.mark.parametrize("shape", ["random", "causal", "full"])
def test_bits_depend_on_no_isa_thread_count_or_batch(shape):
    args, kwargs = attend(3, 6, 2, 81, 72, 300, shape=shape, ragged=True)(torch.device("cpu"))
    before, threads = _C.isa(), torch.get_num_threads()
    results = []
    for isa in {before, "portable"}:
        for count in (1, 2):
            _C.set_isa(isa)
            torch.set_num_threads(count)
            results.append(ops.attn_tree(*args, **kwargs))
            parts = [
                ops.attn_tree(
                    *(t[b : b + 1] for t in args),
                    **{k: t[b : b + 1] if torch.is_tensor(t) else t for k, t in kwargs.items()},
                )
                for b in range(3)
            ]
            results.append([torch.cat(field) for field in zip(*parts, strict=True)])
    _C.set_isa(before)
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("shape", ["random", "causal", "full"])
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_have_the_bits_of_one_cache(shape, window, dtype, isa):
    spec = dict(shape=shape, window=window, dtype=dtype, ragged=True)
    args, kwargs = attend(3, 6, 2, 70, 24, 300, **spec)(torch.device("cpu"))
    want = ops.attn_tree(*args, **kwargs)
    for page in (16, 48, 64, 256):
        args, kwargs = attend(3, 6, 2, 70, 24, 300, page=page, **spec)(torch.device("cpu"))
        got = ops.attn_tree(*args, **kwargs)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("page", [-1, 4, 2**31 - 1])
def test_refuses_pages_that_do_not_exist(page):
    q, pool = torch.zeros(2, 2, 3, 8), torch.zeros(4, 2, 16, 8)
    lengths, table = torch.tensor([40, 20]), torch.tensor([[0, 1, 2], [3, page, page]]).int()
    ops.attn_tree(q, pool, pool, torch.tensor([40, 13]), page_table=table)  # nobody looks there
    with pytest.raises(RuntimeError, match=f"0 <= page < 4 at place 1 in sequence 1, got {page}"):
        ops.attn_tree(q, pool, pool, lengths, page_table=table)
    with pytest.raises(RuntimeError, match=r"kv_len: expected at most 45 in sequence 0 .* got 46"):
        ops.attn_tree(q, pool, pool, torch.tensor([46, 0]), page_table=table)
    with pytest.raises(RuntimeError, match="k_cache: expected pages of 16, 32, 48"):
        ops.attn_tree(q, pool[:, :, :8], pool[:, :, :8], lengths, page_table=table)
    with pytest.raises(RuntimeError, match="page_table: expected int32, got int64"):
        ops.attn_tree(q, pool, pool, lengths, page_table=table.long())


def test_output_layout_is_heads_last_in_memory():
    args, kwargs = attend(2, 4, 2, 7, 16, 5)(torch.device("cpu"))
    out, lse = ops.attn_tree(*args, **kwargs)
    assert out.transpose(1, 2).is_contiguous() and lse.is_contiguous()


def test_rows_that_see_nothing_are_zero():
    args, kwargs = attend(1, 2, 1, 4, 16, 0)(torch.device("cpu"))
    kwargs["ancestors"] = torch.tensor([[[1], [0], [-16], [8]]], dtype=torch.int32)
    out, lse = ops.attn_tree(*args, **kwargs)
    for node in (1, 2):  # no bits; only bits past the tree
        assert not out[:, :, node].any() and lse[:, :, node].isneginf().all()
    assert torch.isfinite(lse[:, :, [0, 3]]).all()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_equals_the_reference(data):
    kv_heads = data.draw(st.integers(1, 3))
    shape = data.draw(st.sampled_from(["random", "chain", "star", "causal", "full"]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    spec = sample(
        "drawn",
        data.draw(st.integers(1, 3)),
        kv_heads * data.draw(st.sampled_from([1, 2, 4, 5])),
        kv_heads,
        data.draw(st.integers(1, 140)),
        8 * data.draw(st.integers(1, 32)),
        data.draw(st.sampled_from([0, 1, 63, 64, 65, 127, 128, 130])),
        dtype=dtype,
        tolerance=(8e-6, {torch.float32: 8e-6, torch.float16: 2**-10}.get(dtype, 2**-7)),
        shape=shape,
        ragged=data.draw(st.booleans()),
        strided=data.draw(st.booleans()),
        window=data.draw(st.sampled_from([None, 1, 2, 30, 64, 65, 200])),
        page=data.draw(st.sampled_from([None, 16, 80, 128])),
    )
    args, kwargs = spec.make(torch.device("cpu"))
    got, want = ops.attn_tree(*args, **kwargs), ref.attention.attn_tree(*args, **kwargs)
    assert_same("attn_tree", spec, got, want)
