"""What the samples cannot say about `attn_sparse`: messages, accuracy, what a result depends on."""

import pytest
import torch
import torch.nn.functional as F

from samples.attention import draw
from samples.sparse import attend
from tokenburst import _C, BlockPattern, ops

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
CPU = torch.device("cpu")


def filled(*shape):
    return torch.full(shape, -1, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 70, 16).double()}, "q: expected float32, float16 or bfloat16"),
        ({"q": torch.zeros(2, 3, 70, 16)}, "q: expected a multiple of the 2 heads of k, got 3"),
        ({"k": torch.zeros(2, 2, 99, 8)}, r"k: expected shape \[2, \*, \*, 16\]"),
        ({"v": torch.zeros(2, 2, 98, 16)}, r"v: expected shape \[2, 2, 99, 16\]"),
        ({"v": torch.zeros(2, 2, 99, 16).half()}, "v: expected the dtype of q"),
        ({"k": torch.zeros(2, 2, 16, 99).mT}, "k: expected a contiguous last dim"),
        ({"block": 48}, "block: expected 32, 64 or 128, got 48"),
        (
            {"block": 64},
            r"bits: .* or 1, 2, 1\] for 70 queries and 99 keys in blocks of 64, got \[",
        ),
        ({"bits": filled(2, 3, 3, 1)}, r"bits: expected \[2 or 1, 4 or 1, 3, 1\] .*\[2, 3, 3, 1\]"),
        ({"bits": filled(3, 4, 3, 1)}, r"bits: expected \[2 or 1, 4 or 1, 3, 1\]"),
        ({"bits": filled(2, 4, 3, 2)}, r"bits: expected \[2 or 1, 4 or 1, 3, 1\]"),
        ({"bits": filled(2, 4, 3)}, r"bits: expected shape \[\*, \*, \*, \*\], got \[2, 4, 3\]"),
        ({"bits": filled(2, 4, 3, 1).long()}, "bits: expected int32, got int64"),
        ({"kv_len": torch.tensor([-1, 0])}, "kv_len: expected 0 <= kv_len <= 99 in sequence 0"),
        ({"kv_len": torch.tensor([99, 100])}, "kv_len: .*<= 99 in sequence 1, got 100"),
        ({"kv_len": torch.tensor([9.0, 9.0])}, "kv_len: expected int32 or int64, got float32"),
        ({"kv_len": torch.tensor([9])}, r"kv_len: expected shape \[2\], got \[1\]"),
    ],
)
def test_refusals(change, message):
    args = {
        "q": torch.zeros(2, 4, 70, 16),
        "k": torch.zeros(2, 2, 99, 16),
        "v": torch.zeros(2, 2, 99, 16),
        "bits": filled(2, 4, 3, 1),
        "block": 32,
    } | change
    with pytest.raises(RuntimeError, match="attn_sparse: " + message):
        ops.attn_sparse(**args)


@pytest.mark.parametrize("dim", [4, 12, 264])
def test_refuses_head_dims(dim):
    q = torch.zeros(1, 1, 1, dim)
    with pytest.raises(RuntimeError, match=f"head dim of 8, 16, 24, ... 256, got {dim}"):
        ops.attn_sparse(q, q, q, filled(1, 1, 1, 1), 32)


def problem(dtype, density, block=64, dim=64, q_length=200, kv_length=333, sharp=1.0):
    """Two sequences, six heads on two KV heads, every query with a block; the pattern as a mask."""
    g = torch.Generator().manual_seed(block + dim)
    q = draw(g, dtype, 2, 6, q_length, dim) * sharp
    k, v = (draw(g, dtype, 2, 2, kv_length, dim) for _ in range(2))
    flags = torch.rand(2, 6, -(-q_length // block), -(-kv_length // block), generator=g) < density
    flags[..., 0] |= ~flags.any(-1)
    pattern = BlockPattern.from_bool(flags, block, q_length=q_length, kv_length=kv_length)
    mask = flags.repeat_interleave(block, 2).repeat_interleave(block, 3)
    return q, k, v, pattern, mask[:, :, :q_length, :kv_length]


@pytest.mark.parametrize("sharp", [1.0, 30.0])
@pytest.mark.parametrize("density", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("case", [(F32, 32, 64), (BF16, 64, 128), (F16, 128, 80)])
def test_as_accurate_as_torch(case, density, sharp):
    """FlashAttention's rule for the largest error, FlexAttention's for the mean: no bias."""
    dtype, block, dim = case
    q, k, v, pattern, mask = problem(dtype, density, block, dim, sharp=sharp)
    got = ops.attn_sparse(q, k, v, pattern.bits, block)
    wide = [t.double() for t in (q, k, v)]
    exact = F.scaled_dot_product_attention(*wide, attn_mask=mask, enable_gqa=True)
    torchs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    ours, theirs = ((out.double() - exact).abs() for out in (got.out, torchs))
    rounding = 2 * (exact.to(dtype).double() - exact).abs().max()
    assert ours.max() <= 2 * theirs.max() + rounding
    assert ours.mean() <= 1.1 * theirs.mean() + (1e-8 if dtype == F32 else 0)
    keys = wide[1].repeat_interleave(3, 1)
    scores = (wide[0] @ keys.mT * dim**-0.5).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(got.lse.double(), scores.logsumexp(-1), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_all_blocks_equal_dense_attention(dtype):
    q, k, v, pattern, _ = problem(dtype, 1.0, block=32)
    for block in (32, 64, 128):
        pattern = BlockPattern.dense(200, 333, block=block)
        got = ops.attn_sparse(q, k, v, pattern.bits, block)
        tree = ops.attn_tree(q, k, v, torch.tensor([133, 133]), causal=False)
        tolerance = {"atol": 2e-6, "rtol": 1e-6} if dtype == F32 else {"atol": 4e-3, "rtol": 8e-3}
        torch.testing.assert_close(got.out, tree.out, **tolerance)
        torch.testing.assert_close(got.lse, tree.lse, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [F32, F16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_selected_is_not_read(bad, dtype):
    q, k, v, pattern, mask = problem(dtype, 0.3)
    lengths = torch.tensor([333, 130])
    want = ops.attn_sparse(q, k, v, pattern.bits, 64, kv_len=lengths)
    seen = mask.unflatten(1, (2, 3)).any(2).any(2)
    seen[1, :, 130:] = False
    assert not seen.all()
    k, v = (t.masked_fill(~seen[..., None], bad) for t in (k, v))
    got = ops.attn_sparse(q, k, v, pattern.bits, 64, kv_len=lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_bits_depend_on_no_isa_thread_count_batch_or_neighbour():
    args, kwargs = attend(3, 6, 2, 300, 270, 72, 64, "heads", ragged=True)(CPU)
    q, k, v, bits, block = args
    before, threads = _C.isa(), torch.get_num_threads()
    results = []
    for isa in {before, "portable"}:
        for count in (1, 2, 3):
            _C.set_isa(isa)
            torch.set_num_threads(count)
            results.append(ops.attn_sparse(*args, **kwargs))
    for b in range(3):  # alone in its batch, its head group and its query block
        lengths = kwargs["kv_len"][b : b + 1]
        for h in (0, 2, 5):
            kv = slice(h // 3, h // 3 + 1)
            rows = slice(128, 192)
            alone = ops.attn_sparse(
                q[b : b + 1, h : h + 1, rows],
                k[b : b + 1, kv],
                v[b : b + 1, kv],
                bits[b : b + 1, h : h + 1, 2:3],
                block,
                kv_len=lengths,
            )
            assert torch.equal(alone.out[0, 0], results[0].out[b, h, rows])
            assert torch.equal(alone.lse[0, 0], results[0].lse[b, h, rows])
    _C.set_isa(before)
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_outputs_round_as_torch_does(dtype, isa):
    """The mean of two values, for all bits that a value can have."""
    values = (
        torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).view(256, 1, 1, 256)
    )
    v = torch.cat([values, values.flip(0).roll(1, 3)], 2)
    q = torch.zeros(256, 1, 1, 256, dtype=dtype)
    out = ops.attn_sparse(q, torch.zeros_like(v), v, filled(1, 1, 1, 1), 32).out
    want = (v.float().sum(2, keepdim=True) * 0.5).to(dtype)
    torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)


def test_queries_that_see_nothing_are_zero():
    q, k, v, pattern, _ = problem(F32, 0.5)
    bits = pattern.bits.clone()
    bits[0, 1, 2] = 0
    bits[1, :, 0] = 1 << 5  # a block past the keys of the sequence
    out, lse = ops.attn_sparse(q, k, v, bits, 64, kv_len=torch.tensor([333, 320]))
    for b, h, rows in ((0, 1, slice(128, 192)), (1, slice(None), slice(0, 64))):
        assert not out[b, h, rows].any() and lse[b, h, rows].isneginf().all()
    assert torch.isfinite(lse[0, 0]).all()
    assert out.transpose(1, 2).is_contiguous() and lse.is_contiguous()
