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


def top(shape, *, count=None, **kwargs):
    """The logits of `stats`, and how many rows of each sequence are read."""

    def make(device):
        args, _ = stats(shape, **kwargs)(device)
        return args, {} if count is None else {
            "count": torch.tensor(count, dtype=torch.int32, device=device)
        }

    return make


def filtered(shape, *, lists=False, guided=False, top_k=None, top_p=None, **kwargs):
    """Logits as above, with what `vocab_filter` does to them."""

    def make(device):
        (logits, _), options = stats(shape, **kwargs)(torch.device("cpu"))
        g = torch.Generator().manual_seed(7)
        count = len(options["rows"]) if "rows" in options else logits[..., 0].numel()
        vocab = shape[-1]
        if lists:
            options["suppress"] = torch.tensor([0, vocab - 1, vocab // 2])
            options["bias_ids"] = torch.tensor([vocab // 3, 1, 1], dtype=torch.int32)
            options["bias"] = torch.tensor([2.5, -1.0, 3.0])
            options["unranked"] = torch.tensor([vocab // 3, vocab - 2])
        if guided:
            options["uncond"] = logits + torch.randn(shape, generator=g).to(logits.dtype)
            options["guidance"] = torch.tensor([0.0, 1.5, -0.5]).repeat(count)[:count]
        if top_k is not None:
            options["top_k"] = torch.tensor(top_k, dtype=torch.int32).repeat(count)[:count]
        if top_p is not None:
            options["top_p"] = torch.tensor(top_p).repeat(count)[:count]
        if options.pop("tempered", False) or kwargs.get("temperature") is not None:
            options["tempered"] = True
        return (logits.to(device),), {
            k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()
        }

    return make


def drafts(shape, k, *, beam=False, replacement=False, rows=None, seed=0, **options):
    """vocab_sample on the logits that `stats` makes."""
    options.setdefault("temperature", [1.0, 0.7, 0.0, 2.5])

    def make(device):
        (logits, _), drawn = stats(shape, rows=rows, **options)(device)
        kwargs = {"replacement": replacement}
        if rows is not None:
            kwargs["rows"] = drawn["rows"]
        count = len(drawn["rng"])
        if beam:
            g = torch.Generator().manual_seed(count)
            phi = -torch.rand(count, generator=g) * 5
            kwargs["parent_g"] = (phi + torch.randn(count, generator=g)).to(device)
            kwargs["parent_phi"] = phi.to(device)
        return (logits, k, drawn["temperature"], drawn["rng"]), kwargs

    return make


# confidence, margin, entropy, log odds and gap: float32 exponentials against float64 ones.
NEAR = {1: (1e-8, 3e-6), 2: (3e-7, 3e-6), 3: (3e-6, 2e-6), 4: (4e-6, 1e-6), 5: (1e-6, 1e-6)}


def filter_sample(id, *args, **kwargs):
    return Sample(id, filtered(*args, **kwargs), fields=NEAR)


f16, bf16 = torch.float16, torch.bfloat16

SAMPLES = {
    "vocab_sample": [
        Sample("one-id", drafts((3, 1), 1)),
        Sample("no-rows", drafts((0, 7), 2)),
        Sample("rows-empty", drafts((2, 7), 2, rows=[])),
        Sample("k-is-v", drafts((6, 5), 5, ties=True)),
        Sample("special-small", drafts((8, 13), 6, special=True)),
        Sample("special-f16", drafts((5, 530), 8, special=True, dtype=f16)),
        Sample("ties-bf16", drafts((4, 1031), 64, ties=True, dtype=bf16, scale=1.0)),
        Sample("rows-with-none", drafts((6, 257), 3, rows=[5, -1, 0, 0, 3])),
        Sample("slice-3d", drafts((2, 3, 519), 8, layout="slice", dtype=bf16)),
        Sample("transposed-3d", drafts((3, 2, 100), 2, layout="transposed", rows=[5, 1, 2])),
        Sample("two-chunks", drafts((3, 8200), 8, special=True)),
        Sample("large-logits", drafts((3, 1000), 3, scale=3e37, temperature=[1e-30, 1e30, 1.0])),
        Sample("beam", drafts((8, 300), 16, beam=True)),
        Sample("beam-special", drafts((6, 40), 9, beam=True, special=True)),
        Sample("replacement", drafts((8, 300), 7, replacement=True)),
        Sample("replacement-special", drafts((6, 13), 20, replacement=True, special=True)),
        Sample("replacement-f16", drafts((3, 4100), 64, replacement=True, dtype=f16)),
    ],
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
    "vocab_top": [
        Sample("one-id", top((3, 1))),
        Sample("no-rows", top((0, 7), k=2)),
        Sample("empty-batch", top((0, 4, 7), k=2, count=[])),
        Sample("k-is-v", top((4, 5), k=5, ties=True)),
        Sample("special-small", top((6, 13), k=4, special=True)),
        Sample("special-f16", top((5, 530), k=8, special=True, dtype=f16)),
        Sample("ties-bf16", top((4, 1031), k=64, ties=True, dtype=bf16, scale=1.0)),
        Sample("some-rows", top((3, 4, 519), k=8, count=[4, 0, 2], layout="slice", dtype=bf16)),
        Sample("transposed", top((3, 2, 100), k=2, count=[1, 2, 0], layout="transposed")),
        Sample("two-blocks", top((40, 4103), k=8, special=True)),
        Sample("three-chunks", top((2, 3, 33001), k=8, special=True, count=[3, 1]), opcheck=False),
        Sample("five-chunks-bf16", top((2, 65600), k=33, ties=True, dtype=bf16)),
        Sample("large-logits", top((3, 1000), k=3, scale=3e38)),
        Sample("flat", top((2, 3000), k=3, scale=0.0)),
    ],
    "vocab_filter": [
        filter_sample("one-id", (3, 1)),
        filter_sample("no-rows", (0, 7), temperature=[1.0], top_p=[0.5]),
        filter_sample("plain", (4, 300)),
        filter_sample("special-small", (6, 13), special=True, temperature=[1.0, 0.0]),
        filter_sample("top-k", (5, 530), top_k=[0, 1, 3, 600], ties=True, temperature=[0.7]),
        filter_sample("top-p", (6, 530), top_p=[0.1, 0.5, 0.9, 1.0], temperature=[1.0, 0.3]),
        filter_sample(
            "ties-cut",
            (5, 90),
            top_p=[0.3, 0.6],
            top_k=[40],
            scale=0.4,
            ties=True,
            dtype=bf16,
            temperature=[1.0],
        ),
        filter_sample("greedy-filtered", (4, 200), top_p=[0.8], top_k=[5, 0]),
        filter_sample("lists", (4, 700), lists=True, special=True, top_p=[0.95], dtype=f16),
        filter_sample("guided", (3, 2, 100), guided=True, layout="transposed", rows=[5, 1, -1, 2]),
        filter_sample(
            "everything",
            (4, 900),
            guided=True,
            lists=True,
            special=True,
            top_k=[30],
            top_p=[0.9],
            temperature=[0.5, 0.0, 2.0],
            layout="slice",
        ),
        filter_sample("all-suppressed", (2, 9), suppress=list(range(9)), temperature=[1.0]),
        filter_sample("large-logits", (3, 700), scale=3e37, temperature=[1e-30, 1.0], top_p=[0.9]),
        filter_sample("long-bf16", (2, 20011), dtype=bf16, temperature=[1.0], top_p=[0.9]),
    ],
}
