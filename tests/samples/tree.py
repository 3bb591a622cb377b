"""Samples of the tree room."""

import math

import torch

from samples import Sample


def random_tree(nodes: int, generator: torch.Generator, shape: str = "random") -> list[int]:
    """Parents of a tree with `nodes` nodes: chain, star, or any."""
    if shape == "chain":
        return [i - 1 for i in range(nodes)]
    if shape == "star":
        return [-1] + [0] * (nodes - 1)
    draw = torch.rand(nodes, generator=generator).tolist()
    return [-1] + [int(draw[i] * i) for i in range(1, nodes)]


def verify(
    batch,
    nodes,
    *,
    shape="random",
    vocab=3,
    ragged=False,
    dtype=torch.int64,
    eos=None,
    strided=False,
):
    """A small vocabulary makes long matches, ties and duplicate siblings common."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 1000 + nodes)
        trees = [random_tree(nodes, g, shape) for _ in range(batch)]
        parent = torch.tensor(trees, dtype=torch.int32).reshape(batch, nodes)
        tokens = torch.randint(-1 if ragged else 0, vocab, (batch, nodes), generator=g).to(dtype)
        argmax = torch.randint(0, vocab, (batch, nodes), generator=g).to(dtype)
        count = torch.full((batch,), nodes, dtype=torch.int32)
        if ragged:
            count = torch.randint(0, nodes + 1, (batch,), generator=g, dtype=torch.int32)
        if strided:
            tokens = tokens.repeat_interleave(2, dim=1)[:, ::2]
            argmax = argmax.t().contiguous().t()
        kwargs = {} if eos is None else {"eos": torch.tensor(eos, device=device)}
        return tuple(t.to(device) for t in (tokens, argmax, parent, count)), kwargs

    return make


def build(batch, nodes, *, shape="random", ragged=False, dtype=torch.int32, strided=False):
    def make(device):
        g = torch.Generator().manual_seed(batch * 1000 + nodes)
        trees = [random_tree(nodes, g, shape)[:nodes] for _ in range(batch)]
        parent = torch.tensor(trees, dtype=dtype).reshape(batch, nodes)
        count = torch.full((batch,), nodes, dtype=dtype)
        if ragged:
            count = torch.randint(0, nodes + 1, (batch,), generator=g, dtype=dtype)
            parent = torch.where(torch.arange(nodes) < count[:, None], parent, 12345)  # not read
        if strided:
            parent = parent.repeat_interleave(3, dim=1)[:, ::3]
        return (parent.to(device), count.to(device)), {}

    return make


def commit(
    batch,
    *,
    layers=2,
    heads=2,
    capacity=24,
    width=8,
    dtype=torch.float32,
    ragged=False,
    layout="plain",
    index=torch.int32,
    page=None,
):
    """Paths of ragged length over caches whose every value is different."""

    def cache(number, device):
        shape = (batch, heads, capacity, width)
        if page is not None:  # as many rows and a page that nobody has
            shape = (batch * capacity // page + 1, heads, page, width)
        values = torch.arange(math.prod(shape)).remainder(251) + number
        values = values.to(dtype).reshape(shape)
        if layout == "tokens-first":  # [B, S, H, D] in memory, as a fused QKV projection leaves it
            values = values.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "odd-rows":  # no row starts on a 16-byte boundary
            wide = torch.zeros((*shape[:2], shape[2] + 1, width + 3), dtype=dtype)
            wide[:, :, 1:, 1 : width + 1] = values
            values = wide[:, :, 1:, 1 : width + 1]
        return values.to(device) if layout == "plain" else _keep_strides(values, device)

    def make(device):
        g = torch.Generator().manual_seed(batch * 100 + width)
        path = torch.full((batch, 9), -1, dtype=index)
        kv_len = torch.randint(0, capacity - 12, (batch,), generator=g, dtype=index)
        count = torch.randint(0 if ragged else 3, 10, (batch,), generator=g, dtype=index)
        for b in range(batch):
            room = capacity - int(kv_len[b])
            rest = 1 + torch.randperm(room - 1, generator=g)[: max(int(count[b]) - 1, 0)]
            chosen = torch.cat([torch.zeros(1, dtype=torch.int64), rest.sort().values])
            path[b, : int(count[b])] = chosen[: int(count[b])].to(index)
        keys = [cache(7 * i, device) for i in range(layers)]
        values = [cache(7 * i + 3, device) for i in range(layers)]
        kwargs = {}
        if page is not None:
            table = torch.randperm(batch * capacity // page, generator=g).to(torch.int32)
            kwargs["page_table"] = table.reshape(batch, -1).to(device)
        return (keys, values, kv_len.to(device), path.to(device), count.to(device)), kwargs

    return make


def _keep_strides(t, device):
    """The same view on another device: `Tensor.to` would pack it."""
    storage = torch.as_strided(t, (t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return torch.as_strided(storage.to(device), t.shape, t.stride(), t.storage_offset())


SAMPLES = {
    "tree_build": [
        Sample("one-node", build(1, 1)),
        Sample("no-nodes", build(2, 0)),
        Sample("empty-batch", build(0, 5)),
        Sample("chain-33", build(2, 33, shape="chain")),
        Sample("star-65", build(3, 65, shape="star")),
        Sample("ragged-with-none", build(7, 31, ragged=True)),
        Sample("exact-words-64", build(2, 64, ragged=True, dtype=torch.int64)),
        Sample("strided", build(3, 81, strided=True)),
        Sample("wide-1024", build(1, 1024), opcheck=False),
    ],
    "tree_commit_kv_": [
        Sample("one-layer", commit(1, layers=1)),
        Sample("no-layers", commit(2, layers=0)),
        Sample("empty-batch", commit(0)),
        Sample("ragged-with-none", commit(5, ragged=True, index=torch.int64)),
        Sample("bf16-tokens-first", commit(3, dtype=torch.bfloat16, layout="tokens-first")),
        Sample("fp16-odd-rows", commit(2, dtype=torch.float16, width=5, layout="odd-rows")),
        Sample("fp32-odd-width", commit(2, width=3)),
        Sample("pages-of-4", commit(3, ragged=True, page=4)),
        Sample(
            "bf16-pages-tokens-first",
            commit(2, dtype=torch.bfloat16, layout="tokens-first", page=8),
        ),
        Sample(
            "fp16-pages-odd-rows",
            commit(2, dtype=torch.float16, width=5, layout="odd-rows", page=3),
        ),
        Sample("two-launches", commit(1, layers=50, heads=1), opcheck=False),
    ],
    "tree_verify_greedy": [
        Sample("one-node", verify(1, 1)),
        Sample("empty-batch", verify(0, 5)),
        Sample("chain-all-accepted", verify(2, 33, shape="chain", vocab=1)),
        Sample("star-duplicates", verify(3, 81, shape="star")),
        Sample("ragged-with-none", verify(5, 31, ragged=True)),
        Sample("eos-stops", verify(4, 40, vocab=2, eos=[1, 7])),
        Sample("int32-strided", verify(3, 17, dtype=torch.int32, strided=True)),
        Sample("wide-128", verify(2, 128, vocab=2)),
    ],
}
