"""Samples of the SparseD pattern. Rows past the end of a sequence are NaN."""

import torch

from samples import Sample
from samples.attention import BF16, F16, F32, draw


def parts_of(batch, length, prompt, ragged, g, wide):
    """Lengths as keyword arguments; ragged ones hold an empty sequence and one without a prompt."""
    index = torch.int64 if wide else torch.int32
    kwargs = {}
    if ragged:
        rows = torch.randint(0, length + 1, (batch,), generator=g, dtype=index)
        rows[:2] = torch.tensor([length, 0], dtype=index)[: len(rows)]
        kwargs["kv_len"] = rows
        asked = (torch.rand(batch, generator=g) * (rows + 1)).to(index)
        asked[2:3] = 0
        kwargs["prompt_len"] = asked
    elif prompt is not None:
        kwargs["prompt_len"] = torch.full((batch,), prompt, dtype=index)
    return kwargs


def mass(
    batch,
    heads,
    kv_heads,
    length,
    dim,
    block,
    prompt=None,
    *,
    dtype=F32,
    ragged=False,
    strided=False,
    scale=None,
    wide=False,
):
    def make(device):
        g = torch.Generator().manual_seed(length * 1000 + dim + block)
        q = draw(g, dtype, batch, heads, length, dim)
        k = draw(g, dtype, batch, kv_heads, length, dim)
        kwargs = parts_of(batch, length, prompt, ragged, g, wide)
        for b, rows in enumerate(kwargs.get("kv_len", torch.tensor([])).tolist()):
            q[b, :, rows:], k[b, :, rows:] = float("nan"), float("nan")
        if strided:  # as projections and grown caches give them
            q = q.transpose(1, 2).contiguous().transpose(1, 2)
            k = torch.cat([k, k], 3).transpose(1, 2).contiguous().transpose(1, 2)[..., :dim]
        kwargs = {name: t.to(device) for name, t in kwargs.items()}
        return (q.to(device), k.to(device), block), kwargs | {"scale": scale}

    return make


def select(batch, heads, length, block, keep, prompt=None, *, ragged=False, ties=False, wide=False):
    def make(device):
        g = torch.Generator().manual_seed(length * 100 + block)
        n = (length + block - 1) // block
        masses = [torch.rand(batch, heads, n, n, generator=g) for _ in range(2)]
        if ties:
            masses = [(m * 4).round() - 1 for m in masses]
            for m in masses:
                m.view(-1)[::7] = float("nan")
                m.view(-1)[3::11] = -0.0
        if ragged:
            masses = [m.mT for m in masses]
        kwargs = parts_of(batch, length, prompt, ragged, g, wide)
        kwargs = {name: t.to(device) for name, t in kwargs.items()}
        return (*(m.to(device) for m in masses), length, block, keep), kwargs

    return make


def sample(name, *args, opcheck=False, **kwargs):
    return Sample(name, mass(*args, **kwargs), atol=2e-7, rtol=1e-4, opcheck=opcheck)


def choice(name, *args, opcheck=False, **kwargs):
    return Sample(name, select(*args, **kwargs), opcheck=opcheck)


SAMPLES = {
    "attn_block_mass": [
        sample("empty-batch", 0, 2, 1, 40, 16, 32, 3, opcheck=True),
        sample("no-rows", 2, 2, 1, 0, 16, 32),
        sample("one-token", 1, 4, 4, 1, 64, 64, opcheck=True),
        sample("shorter-than-a-block", 2, 2, 1, 50, 24, 128, 20),
        sample("no-prompt-given", 1, 3, 1, 100, 40, 32),
        sample("prompt-of-whole-blocks", 1, 2, 2, 160, 64, 32, 96, strided=True),
        sample("prompt-cuts-a-block", 2, 4, 2, 257, 64, 64, 130, strided=True),
        sample("one-generated-block", 1, 2, 2, 129, 128, 128, 129),
        sample("gqa-ragged", 4, 6, 2, 200, 80, 32, ragged=True, opcheck=True),
        sample("ragged-128", 3, 2, 1, 300, 72, 128, ragged=True, wide=True),
        sample("items-take-turns", 1, 330, 330, 3, 16, 32, 1),  # more than a GPU runs side by side
        sample("sharp", 1, 2, 2, 150, 64, 64, 70, scale=3.0),
        sample("fp16-gqa", 2, 4, 1, 193, 64, 32, 64, dtype=F16, strided=True),
        sample("fp16-ragged", 3, 2, 2, 130, 96, 64, dtype=F16, ragged=True, opcheck=True),
        sample("bf16-two-tiles", 1, 2, 1, 260, 128, 128, 200, dtype=BF16),
        sample("bf16-ragged", 4, 4, 2, 135, 80, 32, dtype=BF16, ragged=True, wide=True),
        sample("bf16-items-take-turns", 1, 330, 330, 2, 64, 64, dtype=BF16),
        sample("bf16-odd-dim", 1, 2, 1, 70, 72, 32, 33, dtype=BF16),
    ],
    "attn_select_blocks": [
        choice("empty-batch", 0, 2, 40, 32, 0.3, 3, opcheck=True),
        choice("no-rows", 1, 2, 0, 32, 0.3),
        choice("one-block", 2, 1, 20, 128, 0.5, 20, opcheck=True),
        choice("published", 1, 4, 1024, 64, 0.3, 700),
        choice("float-product", 1, 2, 3200, 32, 0.29, 1600),  # int(100 * 0.29) is 28
        choice("nothing", 1, 2, 500, 32, 0.0, 130),
        choice("everything", 1, 2, 500, 32, 1.0, 130),
        choice("only-ties", 2, 3, 1100, 32, 0.4, 400, ties=True),
        choice("ragged", 5, 2, 700, 64, 0.5, ragged=True, opcheck=True),
        choice("ragged-ties", 4, 2, 1050, 32, 0.2, ragged=True, ties=True, wide=True),
    ],
}
