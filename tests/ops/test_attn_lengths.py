"""`attn_sparse` and `attn_tree` over the lengths where blocks, tiles and words begin and end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from agreement import assert_same
from samples.attention import BF16, F16, F32
from samples.attention import sample as tree_sample
from samples.sparse import sample
from tokenburst import BlockPattern, ops, ref

CPU = torch.device("cpu")


@pytest.mark.parametrize("lengths", [(64, 100, 257, 1000, 33), (1100, 2049, 1500, 1033)])
def test_lengths_compile_at_most_twice(lengths):
    """As long as no size becomes 1 (here the words per row do at 1024 keys), which torch fixes."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def compiled(q, k, v, bits, kv_len):
        return ops.attn_sparse(q, k, v, bits, 32, kv_len=kv_len)

    for length in lengths:
        q, k, v = (torch.randn(2, 2, length, 16) for _ in range(3))
        bits = BlockPattern.sink_and_window(length, length, sink=4, window=40, block=32).bits
        kv_len = torch.tensor([length, length // 2])
        got = compiled(q, k, v, bits, kv_len)
        want = ops.attn_sparse(q, k, v, bits, 32, kv_len=kv_len)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert counter.frame_count <= 2


LENGTHS = [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 390]
LONG = [1000, 1023, 1024, 1025]


@pytest.mark.parametrize(
    ("length", "block"),
    [(n, block) for n in LENGTHS + LONG for block in (32, 64, 128)] + [(4096, 64), (4224, 128)],
)
def test_every_length_equals_the_reference(length, block):
    """The last block full, short or a single key, and for short ones fewer queries than keys."""
    density = 0.3 if length < 4096 else 0.05
    for queries in {length, max(1, length - 1)} if length < 1000 else {length}:
        spec = sample("", 1, 2, 1, queries, length, 64, block, density, tolerance=(8e-6, 8e-6))
        args, kwargs = spec.make(CPU)
        got, want = ops.attn_sparse(*args, **kwargs), ref.attention.attn_sparse(*args, **kwargs)
        assert_same("attn_sparse", spec, got, want)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_equals_the_reference(data):
    kv_heads = data.draw(st.integers(1, 2))
    dtype = data.draw(st.sampled_from([F32, F16, BF16]))
    spec = sample(
        "drawn",
        data.draw(st.integers(1, 3)),
        kv_heads * data.draw(st.sampled_from([1, 2, 4, 7])),
        kv_heads,
        data.draw(st.sampled_from(LENGTHS)),
        data.draw(st.sampled_from(LENGTHS)),
        8 * data.draw(st.integers(1, 32)),
        data.draw(st.sampled_from([32, 64, 128])),
        data.draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0, "heads", "tail", "first", "one"])),
        dtype=dtype,
        tolerance=(8e-6, {F32: 8e-6, F16: 2**-10}.get(dtype, 2**-7)),
        ragged=data.draw(st.booleans()),
        strided=data.draw(st.booleans()),
        shared=data.draw(st.booleans()),
    )
    args, kwargs = spec.make(CPU)
    got, want = ops.attn_sparse(*args, **kwargs), ref.attention.attn_sparse(*args, **kwargs)
    assert_same("attn_sparse", spec, got, want)


NODES = [1, 2, 31, 32, 33, 64, 81, 127, 128]
PREFIXES = [0, 1, 127, 128, 129, 4096]


@pytest.mark.parametrize("prefix", [*PREFIXES, 32768])
@pytest.mark.parametrize("shape", ["random", "star", "causal", "full"])
def test_every_tree_equals_the_reference(prefix, shape):
    for nodes in NODES if prefix < 4096 else (1, 33, 81) if prefix == 4096 else (2,):
        spec = tree_sample("", 1, 2, 1, nodes, 64, prefix, shape=shape, tolerance=(8e-6, 8e-6))
        args, kwargs = spec.make(CPU)
        got, want = ops.attn_tree(*args, **kwargs), ref.attention.attn_tree(*args, **kwargs)
        assert_same("attn_tree", spec, got, want)
