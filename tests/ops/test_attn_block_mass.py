"""What the samples cannot say about `attn_block_mass` and `attn_select_blocks` together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agreement import assert_same
from samples.sparsed import mass, sample
from tokenburst import _C, ops, ref
from tokenburst.patterns import BlockPattern, unpack_bits

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 4, 9, 16).double()}, "q: expected float32, float16 or bfloat16"),
        ({"q": torch.zeros(1, 3, 9, 16)}, "q: expected a multiple of the 2 heads of k, got 3"),
        ({"q": torch.zeros(1, 4, 16, 9).mT}, "q: expected a contiguous last dim"),
        ({"k": torch.zeros(1, 2, 8, 16)}, r"k: expected shape \[1, \*, 9, 16\]"),
        ({"k": torch.zeros(1, 2, 9, 16).half()}, "k: expected the dtype of q"),
        ({"block": 48}, "block: expected 32, 64 or 128, got 48"),
        ({"kv_len": torch.tensor([10])}, "kv_len: expected 0 <= kv_len <= 9 in sequence 0, got 10"),
        ({"kv_len": torch.tensor([2.0])}, "kv_len: expected int32 or int64, got float32"),
        ({"kv_len": torch.tensor([5]), "prompt_len": torch.tensor([6])}, "prompt_len: .*<= 5 in"),
        ({"prompt_len": torch.tensor([-1])}, "prompt_len: expected 0 <= prompt_len <= 9"),
        ({"prompt_len": torch.tensor([1, 1])}, r"prompt_len: expected shape \[1\]"),
    ],
)
def test_mass_refuses(change, message):
    args = {"q": torch.zeros(1, 4, 9, 16), "k": torch.zeros(1, 2, 9, 16), "block": 32} | change
    with pytest.raises(RuntimeError, match="attn_block_mass: " + message):
        ops.attn_block_mass(**args)


@pytest.mark.parametrize("dim", [4, 12, 264])
def test_mass_refuses_head_dims(dim):
    q = torch.zeros(1, 1, 1, dim)
    with pytest.raises(RuntimeError, match=f"head dim of 8, 16, 24, ... 256, got {dim}"):
        ops.attn_block_mass(q, q, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 65}, r"prefix_mass: expected shape \[\*, \*, 3, 3\]"),
        ({"length": -1}, "length: expected 0 <= length"),
        ({"block": 31}, "block: expected 32, 64 or 128"),
        ({"keep": 1.5}, "keep: expected a ratio from 0 to 1, got 1.5"),
        ({"keep": float("nan")}, "keep: expected a ratio from 0 to 1"),
        ({"prefix_mass": torch.zeros(1, 1, 2, 2).double()}, "prefix_mass: expected float32"),
        ({"generation_mass": torch.zeros(1, 2, 2, 2)}, "generation_mass: expected shape"),
        ({"prompt_len": torch.tensor([65])}, "prompt_len: expected 0 <= prompt_len <= 64"),
    ],
)
def test_select_refuses(change, message):
    masses = {"prefix_mass": torch.zeros(1, 1, 2, 2), "generation_mass": torch.zeros(1, 1, 2, 2)}
    with pytest.raises(RuntimeError, match="attn_select_blocks: " + message):
        ops.attn_select_blocks(**masses | {"length": 64, "block": 32, "keep": 0.3} | change)


def published(q, k, generated, keep, block, scale):
    """The published loop over query blocks in float64, with its mask of blocks [B, H, n, n].

    A block's importance is its mean over block x block, zero-padded, as `F.avg_pool2d` gives it.
    """
    length = q.shape[2]
    n = -(-length // block)
    last = next((i for i in range(n) if length - i * block <= generated), n - 1)
    mask = torch.zeros(*q.shape[:2], n, n, dtype=torch.bool)
    for i in range(n):
        rows = q[:, :, i * block : (i + 1) * block]
        for first in (0, last):
            keys = k[:, :, first * block :]
            shares = (rows @ keys.transpose(-1, -2) * scale).softmax(-1)
            m = n - first
            pad = 0, m * block - keys.shape[2], 0, block - rows.shape[2]
            pooled = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(shares, pad), block)
            chosen = pooled[:, :, 0].topk(max(1, int(m * keep) + 1), -1).indices + first
            mask[:, :, i].scatter_(-1, chosen, True)
            if first == 0 and last > 0:
                mask[:, :, i, last:] = False
    return mask


@pytest.mark.parametrize("generated", [1, 40, 64, 100, 257, 400])
@pytest.mark.parametrize(("keep", "scale"), [(0.3, 8**-0.5), (0.55, 4**-0.5), (0.0, 1.0)])
def test_selection_is_the_published_one(generated, keep, scale, isa):
    g = torch.Generator().manual_seed(generated)
    q, k = (torch.randn(2, 4, 257, 8, generator=g) for _ in range(2))
    want = published(q.double(), k.double(), generated, keep, 32, scale)
    prompt = torch.full((2,), max(0, 257 - generated))
    masses = ops.attn_block_mass(q, k, 32, prompt_len=prompt, scale=scale)
    bits = ops.attn_select_blocks(*masses, 257, 32, keep, prompt_len=prompt)
    BlockPattern(bits, 32, 257, 257)
    assert torch.equal(unpack_bits(bits, 9), want)


def test_masses_of_a_row_are_shares():
    q, k = torch.randn(2, 2, 2, 300, 64)
    prefix, generation = ops.attn_block_mass(q, k, 128, prompt_len=torch.tensor([130, 0]))
    rows = torch.tensor([128.0, 128, 44]).expand(2, 2, 3)
    torch.testing.assert_close(prefix.sum(-1), rows)
    torch.testing.assert_close(generation.sum(-1), rows)
    assert not generation[0, :, :, :2].any()
    torch.testing.assert_close(generation[1], prefix[1])


def test_scores_without_a_number_count_as_padding(isa):
    q, k = torch.randn(2, 1, 1, 70, 16)
    whole = ops.attn_block_mass(q, k, 32).prefix
    q[0, 0, 69] = float("nan")
    torch.testing.assert_close(ops.attn_block_mass(q, k, 32).prefix.sum(), whole.sum() - 1)
    k[0, 0, 3] = float("nan")  # a key that nobody can score
    got = ops.attn_block_mass(q, k, 32).prefix
    assert got.isfinite().all()
    torch.testing.assert_close(got, ref.sparsed.attn_block_mass(q, k, 32)[0])


def test_large_scores_and_distant_blocks(isa):
    """A generated part whose weights underflow beside the prompt still has its own softmax."""
    q, k = torch.randn(2, 1, 2, 128, 64)
    k[:, :, :64] *= 30
    prompt = torch.tensor([64])
    got = ops.attn_block_mass(q, k, 32, prompt_len=prompt, scale=1.0)
    want = ref.sparsed.attn_block_mass(q, k, 32, prompt_len=prompt, scale=1.0)
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine, exact, rtol=5e-4, atol=1e-5)


def test_bits_depend_on_no_isa_thread_count_or_batch():
    args, kwargs = mass(3, 4, 2, 300, 72, 32, ragged=True)(CPU)
    before, threads = _C.isa(), torch.get_num_threads()
    results = []
    for isa in {before, "portable"}:
        for count in (1, 2):
            _C.set_isa(isa)
            torch.set_num_threads(count)
            results.append(ops.attn_block_mass(*args, **kwargs))
            parts = []
            for b in range(3):
                one = {k: t[b : b + 1] if torch.is_tensor(t) else t for k, t in kwargs.items()}
                parts.append(ops.attn_block_mass(args[0][b : b + 1], args[1][b : b + 1], 32, **one))
            results.append([torch.cat(field) for field in zip(*parts, strict=True)])
    _C.set_isa(before)
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_equals_the_reference(data):
    kv_heads = data.draw(st.integers(1, 2))
    length = data.draw(st.integers(1, 290))
    spec = sample(
        "drawn",
        data.draw(st.integers(1, 3)),
        kv_heads * data.draw(st.sampled_from([1, 2, 3])),
        kv_heads,
        length,
        8 * data.draw(st.integers(1, 32)),
        data.draw(st.sampled_from([32, 64, 128])),
        data.draw(st.integers(0, length)),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
        ragged=data.draw(st.booleans()),
        strided=data.draw(st.booleans()),
    )
    args, kwargs = spec.make(CPU)
    got, want = ops.attn_block_mass(*args, **kwargs), ref.sparsed.attn_block_mass(*args, **kwargs)
    assert_same("attn_block_mass", spec, got, want)
