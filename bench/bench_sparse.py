"""Block-sparse attention against dense attention of as many pairs, and FlexAttention."""

import functools

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from harness import Case, main, nbytes, short
from shapes import MODELS
from tokenburst import BlockPattern, ops

LENGTH = 4096


@functools.cache
def compiled_flex():
    return torch.compile(flex_attention, dynamic=False)


def block_mask(flags, block):
    """All selected blocks full, no mask_mod: FlexAttention's best case."""
    counts = flags.sum(-1, dtype=torch.int32)
    indices = flags.int().argsort(dim=-1, descending=True, stable=True).int()
    none = torch.zeros_like(counts), torch.zeros_like(indices)
    return BlockMask.from_kv_blocks(
        *none, counts, indices, BLOCK_SIZE=block, compute_q_blocks=False
    )


def case(heads, dim, block, density, against, dtype, device, length=LENGTH, kv_heads=None):
    kv_heads = kv_heads or heads
    q, k, v = (
        torch.randn(1, h, length, dim, device=device).to(dtype) for h in (heads, kv_heads, kv_heads)
    )
    shared = kv_heads < heads
    n = length // block
    chosen = max(1, round(density * n))
    flags = torch.rand(1, heads, n, n, device=device).argsort(-1) < chosen
    pattern = BlockPattern.from_bool(flags, block)
    pairs = chosen * block * length  # of tokens, per head

    def ours():
        return ops.attn_sparse(q, k, v, pattern.bits, block)

    def dense():  # the first queries over all keys: as many products
        some = q[:, :, : chosen * block]
        return F.scaled_dot_product_attention(some, k, v, enable_gqa=shared)

    def masked():
        mask = flags.repeat_interleave(block, 2).repeat_interleave(block, 3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared)

    mask = block_mask(flags, block)

    def flex():
        return compiled_flex()(q, k, v, block_mask=mask, enable_gqa=shared)

    def check():  # the last two query blocks
        rows, last = slice(length - 2 * block, length), pattern.bits[:, :, -2:]
        seen = flags[:, :, -2:].repeat_interleave(block, 2).repeat_interleave(block, 3)
        wide = q[:, :, rows].float(), k.float(), v.float()
        exact = F.scaled_dot_product_attention(*wide, attn_mask=seen, enable_gqa=shared)
        got = ops.attn_sparse(q[:, :, rows], k, v, last, block).out
        error = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(got.float(), exact, rtol=error, atol=error)

    def by(backend):
        def call():
            with sdpa_kernel(backend):
                return dense()

        return call

    every = {"sdpa, dense, as many pairs": dense}
    if device.type == "cuda":  # torch's own choice need not be the fastest
        for backend in SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION:
            every[f"sdpa, dense, {backend.name.lower()}"] = by(backend)
    baselines = {
        "dense": every,
        "flex": {"flex_attention, compiled, full blocks": flex},
        "mask": {"sdpa, bool mask": masked},
    }
    return Case(
        "attn_sparse",
        f"L={length} H={heads}{f'/{kv_heads}' * shared} D={dim} block={block} "
        f"d={chosen / n:.3f} {short(dtype)} {against}",
        ours,
        baselines[against],
        check,
        moved=nbytes(q, k, v, q),
        flops=4 * heads * dim * pairs,
        dtype=dtype,
    )


def cases(device):
    gpu = device.type == "cuda"
    heads, dtype = (32, torch.bfloat16) if gpu else (8, torch.float32)
    for dim in (64, 128):
        for block in (128, 64, 32):
            for density in (1.0, 0.5, 0.3, 0.1):
                yield case(heads, dim, block, density, "dense", dtype, device)
            yield case(heads, dim, block, 0.3, "flex", dtype, device)
    yield case(heads, 128, 64, 0.3, "mask", dtype, device)
    if not gpu:
        yield case(heads, 128, 64, 0.3, "dense", torch.bfloat16, device)


def more(device):
    """All heads of LLaDA-8B; on a GPU up to 64k."""
    s, gpu = MODELS["LLaDA-8B"], device.type == "cuda"
    for length in (65536, 16384) if gpu else (LENGTH,):
        for density in (0.3, 0.1):
            dtype = torch.bfloat16 if gpu else torch.float32
            yield case(s.heads, s.head_dim, 128, density, "dense", dtype, device, length)


if __name__ == "__main__":
    main(cases, more)
