"""Samples of block-sparse attention. Keys and values that no query selects are NaN."""

import torch

from samples import Sample
from samples.attention import BF16, F16, F32, TOLERANCE, draw
from tokenburst.patterns import pack_bits


def select(generator, batch, heads, nq, nk, density):
    """[batch, heads, nq, nk] bool; `density` is a chance, or which blocks: "tail", "first", "one".

    "heads": none for the first head up to all for the last one.
    """
    shape = (batch, heads, nq, nk)
    if density == "heads":
        chance = torch.linspace(0, 1, heads)[:, None, None]
    else:
        chance = density if isinstance(density, float) else 0.0
    flags = torch.rand(shape, generator=generator) < chance
    if density == "tail":
        flags[..., -1:] = True
    elif density == "first":
        flags[..., :1] = True
    elif density == "one":
        flags.scatter_(3, torch.randint(0, nk, (*shape[:3], 1), generator=generator), True)
    return flags


def poison(flags, keys, lengths, block, kv_heads):
    """NaN in every row that no query of the KV head selects, and in padding."""
    used = flags.any(2).unflatten(1, (kv_heads, -1)).any(2)
    rows = used.repeat_interleave(block, 2)[:, :, : keys.shape[2]]
    rows &= torch.arange(keys.shape[2]) < lengths[:, None, None]
    keys[~rows] = float("nan")


def attend(
    batch,
    heads,
    kv_heads,
    q_length,
    kv_length,
    dim,
    block,
    density=0.4,
    *,
    dtype=F32,
    ragged=False,
    strided=False,
    shared=False,
    scale=None,
    sharp=1.0,
    wide=False,
):
    """`shared`: one pattern for all sequences and heads."""

    def make(device):
        g = torch.Generator().manual_seed(q_length * 1000 + kv_length + dim + block)
        q = draw(g, dtype, batch, heads, q_length, dim) * sharp
        k, v = (draw(g, dtype, batch, kv_heads, kv_length, dim) for _ in range(2))
        nq, nk = -(-q_length // block), -(-kv_length // block)
        flags = select(g, *((1, 1) if shared else (batch, heads)), nq, nk, density)
        lengths = torch.full((batch,), kv_length, dtype=torch.int64 if wide else torch.int32)
        kwargs = {"scale": scale}
        if ragged:
            lengths = torch.randint(0, kv_length + 1, (batch,), generator=g).to(lengths.dtype)
            kwargs["kv_len"] = lengths.to(device)
        for keys in (k, v):
            poison(flags.expand(batch, heads, -1, -1), keys, lengths, block, kv_heads)
        bits = pack_bits(flags)
        if nk % 32:  # bits past the keys mean nothing
            bits[..., -1] |= -1 << nk % 32
        if strided:  # as projections and grown caches give them
            q = q.transpose(1, 2).contiguous().transpose(1, 2)
            k = torch.cat([k, k], 3).transpose(1, 2).contiguous().transpose(1, 2)[..., :dim]
            v = torch.cat([v, v], 2)[:, :, :kv_length]
            bits = bits.transpose(1, 2).contiguous().transpose(1, 2)
        return (*(t.to(device) for t in (q, k, v, bits)), block), kwargs

    return make


def sample(name, *args, dtype=F32, opcheck=False, tolerance=None, **kwargs):
    atol, rtol = tolerance or TOLERANCE[dtype]
    make = attend(*args, dtype=dtype, **kwargs)
    return Sample(name, make, atol=atol, rtol=rtol, opcheck=opcheck, fields={1: (2e-5, 5e-6)})


SAMPLES = {
    "attn_sparse": [
        sample("one-query", 1, 2, 2, 1, 1, 64, 32, "first", opcheck=True),
        sample("empty-batch", 0, 4, 2, 40, 70, 16, 32, opcheck=True),
        sample("no-queries", 1, 2, 1, 0, 40, 16, 32),
        sample("no-keys", 1, 2, 1, 5, 0, 16, 32),
        sample("ragged", 3, 4, 2, 100, 130, 24, 32, ragged=True, opcheck=True),
        sample("one-pattern-for-all", 2, 4, 1, 70, 200, 40, 64, shared=True, wide=True),
        sample("density-by-head", 2, 5, 5, 65, 129, 64, 32, "heads", strided=True),
        sample("dense-tails", 1, 3, 1, 33, 127, 72, 128, 1.0),
        sample("only-the-tail", 2, 2, 1, 128, 257, 80, 64, "tail", ragged=True),
        sample("nothing", 1, 2, 2, 40, 40, 16, 32, 0.0),
        sample("two-words", 1, 2, 1, 40, 1100, 32, 32, 0.3),
        sample("sharp-scores", 1, 2, 2, 64, 256, 64, 64, 0.5, sharp=30.0, tolerance=(2e-4, 1e-5)),
        sample("bf16-block-128", 1, 4, 2, 257, 255, 128, 128, 0.5, dtype=BF16, strided=True),
        sample("bf16-block-64", 2, 2, 2, 129, 190, 64, 64, "heads", dtype=BF16, ragged=True),
        sample("fp16-block-32", 1, 6, 2, 65, 330, 80, 32, 0.3, dtype=F16, opcheck=True),
        sample("fp16-one-block", 1, 2, 1, 63, 100, 96, 64, "one", dtype=F16, ragged=True),
        sample("fp16-dim-256", 1, 2, 1, 150, 130, 256, 128, 0.6, dtype=F16),
        sample("bf16-dim-256-small", 1, 1, 1, 33, 65, 256, 32, 0.6, dtype=BF16, wide=True),
        sample("bf16-odd-dim", 1, 2, 1, 7, 70, 72, 64, dtype=BF16),
    ]
}
