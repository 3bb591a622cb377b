"""Samples of the vocab room."""

import torch

from samples import Sample

# lse, confidence, margin, entropy: float32 sums against float64 ones; all the rest is exact.
CLOSE = {2: (1e-6, 5e-7), 4: (1e-8, 3e-6), 5: (3e-7, 3e-6), 6: (2e-6, 1e-6)}


def stats(
    shape,
    *,
    k=1,
    dtype=torch.float32,
    scale=3.0,
    ties=False,
    special=False,
    rows=None,
    suppress=None,
    temperature=None,
    layout=None,
    shift=0.0,
):
    """Logits of `shape`; `special` strews NaN, infinities and a row of nothing over them."""

    def make(device):
        g = torch.Generator().manual_seed(sum(shape) + k)
        logits = torch.randn(shape, generator=g) * scale + shift
        if ties:
            logits = logits.round()
        if special:
            kind = torch.randint(0, 12, shape, generator=g)
            for which, value in enumerate((torch.nan, -torch.inf, -0.0, 0.0)):
                logits = torch.where(kind == which, value, logits)
            logits.view(-1, shape[-1])[0] = -torch.inf
            logits.view(-1, shape[-1])[-1, :3] = torch.tensor([torch.nan, torch.inf, torch.inf])
        logits = logits.to(dtype)
        if layout == "slice":  # a window of a larger tensor, its rows misaligned
            larger = torch.full((*shape[:-1], shape[-1] + 5), torch.nan, dtype=dtype)
            larger[..., 3:-2] = logits
            logits = larger[..., 3:-2]
        elif layout == "transposed":  # [B, L, V] stored as [L, B, V]
            logits = logits.transpose(0, 1).contiguous().transpose(0, 1)
        count = logits[..., 0].numel()
        kwargs = {}
        if rows is not None:
            kwargs["rows"] = torch.tensor(rows, dtype=torch.int32)
            count = len(rows)
        if suppress is not None:
            kwargs["suppress"] = torch.tensor(suppress, dtype=torch.int64)
        if temperature is not None:
            t = torch.tensor(temperature).repeat(count)[:count]
            rng = torch.randint(-(2**40), 2**40, (count, 4), generator=g)
            rng[:, 1:] = rng[:, 1:] % 1000
            kwargs |= {"temperature": t, "rng": rng}
        kwargs = {name: t.to(device) for name, t in kwargs.items()}
        return (logits.to(device), k), kwargs

    return make


def sample(id, *args, **kwargs):
    return Sample(id, stats(*args, **kwargs), fields=CLOSE)


f16, bf16 = torch.float16, torch.bfloat16

SAMPLES = {
    "vocab_stats": [
        sample("one-id", (3, 1)),
        sample("no-rows", (0, 7), k=2, temperature=[1.0]),
        sample("rows-empty", (2, 7), k=2, rows=[]),
        sample("k-is-v", (4, 5), k=5, ties=True),
        sample("special-small", (6, 13), k=4, special=True, temperature=[1.0, 0.0]),
        sample("special-f16", (5, 530), k=8, special=True, dtype=f16, temperature=[0.7]),
        sample("ties-bf16", (4, 1031), k=64, ties=True, dtype=bf16, scale=1.0),
        sample("rows-with-none", (6, 257), k=3, rows=[5, -1, 0, 0, 3], temperature=[0.5, 0.0, 2.0]),
        sample("all-suppressed", (2, 9), k=2, suppress=list(range(9)), temperature=[1.0]),
        sample("suppress", (3, 700), k=5, suppress=[0, 63, 64, 511, 512, 699, 64], special=True),
        sample("slice-3d", (2, 3, 519), k=8, layout="slice", temperature=[1.0], dtype=bf16),
        sample("transposed-3d", (3, 2, 100), k=2, layout="transposed", rows=[5, 1, 2]),
        sample("two-chunks", (3, 8200), k=8, special=True, temperature=[1.3, 0.0]),
        sample("odd-three-chunks-f16", (2, 16501), k=7, dtype=f16, temperature=[0.2]),
        sample("five-chunks-bf16", (2, 65600), k=2, dtype=bf16, temperature=[1.0]),
        sample("large-logits", (3, 1000), k=3, scale=3e37, temperature=[1e-30, 1e30, 1.0]),
        sample("far-from-zero", (3, 2000), k=3, scale=30.0, shift=-4000.0, temperature=[3.0]),
        sample("flat", (2, 3000), k=3, scale=0.0, temperature=[1.0]),
    ],
}
