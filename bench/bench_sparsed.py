"""The pattern of SparseD against the published loop, and against the attention it prepares."""

import torch
import torch.nn.functional as F

from harness import Case, main, nbytes, short
from tokenburst import ops
from tokenburst.patterns import unpack_bits

KEEP = 0.3


def published(q, k, prompt, block):
    """The published loop over query blocks, its mask of blocks [B, H, n, n]."""
    length, dim = q.shape[2:]
    n = -(-length // block)
    last = min(-(-prompt // block), n - 1)
    mask = torch.zeros(*q.shape[:2], n, n, dtype=torch.bool, device=q.device)
    for i in range(n):
        rows = q[:, :, i * block : (i + 1) * block]
        for first in (0, last):
            keys = k[:, :, first * block :]
            scores = rows @ keys.transpose(-1, -2) * dim**-0.5
            shares = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
            m = n - first
            pad = 0, m * block - keys.shape[2], 0, block - rows.shape[2]
            pooled = F.avg_pool2d(F.pad(shares, pad), block)[:, :, 0]
            chosen = pooled.topk(max(1, int(m * KEEP) + 1), -1).indices + first
            mask[:, :, i].scatter_(-1, chosen, True)
            if first == 0:
                mask[:, :, i, last:] = False
    return mask


def case(length, block, heads, kv_heads, dim, dtype, device):
    q = torch.randn(1, heads, length, dim, device=device).to(dtype)
    k, v = (torch.randn(1, kv_heads, length, dim, device=device).to(dtype) for _ in range(2))
    k_all = k.repeat_interleave(heads // kv_heads, 1)
    prompt = length - 256
    lengths = torch.tensor([prompt], device=device)

    def ours():
        masses = ops.attn_block_mass(q, k, block, prompt_len=lengths)
        return ops.attn_select_blocks(*masses, length, block, KEEP, prompt_len=lengths)

    def check():  # of a part; sums in another order may rank near ties otherwise
        part, cut = min(length, 1024), prompt * 1024 // max(length, 1024)
        some = torch.tensor([cut], device=device)
        masses = ops.attn_block_mass(q[:, :, :part], k[:, :, :part], block, prompt_len=some)
        got = ops.attn_select_blocks(*masses, part, block, KEEP, prompt_len=some)
        want = published(q[:, :, :part].float(), k_all[:, :, :part].float(), cut, block)
        same = (unpack_bits(got, want.shape[-1]) == want).float().mean()
        assert same > 0.999, f"{same:.4f} of the bits are those of the published loop"

    baselines = {"dense attention (SDPA)": lambda: dense(q, k, v)}
    if device.type == "cuda" or dtype == torch.float32:  # bf16 products take minutes on AVX2
        baselines["published loop"] = lambda: published(q, k_all, prompt, block)
    return Case(
        "attn_block_mass",
        f"L={length} b={block} Hq={heads} Hkv={kv_heads} D={dim} {short(dtype)}",
        ours,
        baselines,
        check,
        moved=nbytes(q, k),
        flops=2 * heads * dim * length**2,
        dtype=dtype,
    )


def dense(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def selection(n, heads, device):
    length, prompt = 64 * n, 64 * n - 256
    masses = [torch.rand(1, heads, n, n, device=device) for _ in range(2)]
    lengths = torch.tensor([prompt], device=device)
    split, few, some = n - 4, int(n * KEEP) + 1, int(4 * KEEP) + 1

    def ours():
        return ops.attn_select_blocks(*masses, length, 64, KEEP, prompt_len=lengths)

    def eager():
        mask = torch.zeros(1, heads, n, n, dtype=torch.bool, device=device)
        mask.scatter_(-1, masses[0].topk(few, -1).indices, True)
        mask[..., split:] = False
        return mask.scatter_(-1, masses[1][..., split:].topk(some, -1).indices + split, True)

    def check():
        assert torch.equal(unpack_bits(ours(), n), eager())

    name = f"n={n} H={heads} keep={KEEP}"
    return Case(
        "attn_select_blocks", name, ours, {"topk": eager}, check, moved=nbytes(*masses, ours())
    )


def cases(device):
    yield selection(64, 32, device)
    yield selection(512, 8, device)
    long = 4096 if device.type == "cpu" else 16384
    heads = 8 if device.type == "cpu" else 32
    yield case(1024, 32, 8, 8, 64, torch.float32, device)
    yield case(long, 128, heads, heads, 64, torch.float32, device)
    for dtype in (torch.float32, torch.bfloat16):
        yield case(long, 128, heads, heads // 4, 128, dtype, device)


if __name__ == "__main__":
    main(cases)
