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
    ranked=0,
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
        if ranked:  # more tokens after the best one, which nobody may look at
            argmax = torch.stack([argmax, *[argmax + 1] * (ranked - 1)], 2)
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


def merge(batch, nodes, *, shape="random", vocab=3, none=False, dtype=torch.int64, strided=False):
    """Few words, so that most nodes repeat others."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 1000 + nodes)
        trees = [random_tree(nodes, g, shape)[:nodes] for _ in range(batch)]
        parent = torch.tensor(trees, dtype=torch.int32).reshape(batch, nodes)
        tokens = torch.randint(-1 if none else 0, vocab, (batch, nodes), generator=g).to(dtype)
        if strided:
            tokens = tokens.t().contiguous().t()
            parent = parent.to(torch.int64).repeat_interleave(2, dim=1)[:, ::2]
        return (tokens.to(device), parent.to(device)), {}

    return make


def append(
    batch, nodes, *, width=30, vocab=5, eos=None, strided=False, index=torch.int32, cache=False
):
    """Texts of any length up to full, paths of any length, and sequences that are done."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 1000 + nodes)
        text = torch.randint(0, vocab, (batch, width), generator=g)
        length = torch.randint(0, width + 1, (batch,), generator=g, dtype=torch.int32)
        end = (length + torch.randint(-1, nodes + 3, (batch,), generator=g)).to(index)
        count = torch.randint(0, nodes + 1, (batch,), generator=g, dtype=index)
        path = torch.full((batch, nodes), -1, dtype=index)
        for b in range(batch):
            n = int(count[b])
            rest = 1 + torch.randperm(nodes - 1, generator=g)[: max(0, n - 1)]
            path[b, :n] = torch.cat([torch.zeros(1, dtype=torch.int64), rest.sort().values])[:n]
        tokens = torch.randint(0, vocab, (batch, nodes), generator=g)
        if strided:
            wide = torch.zeros(batch, width + 7, dtype=torch.int64, device=device)
            wide[:, 3:-4] = text
            text, tokens = wide[:, 3:-4], tokens.t().contiguous().t()
        root, following = torch.randint(0, vocab, (2, batch), generator=g)
        active = torch.rand(batch, generator=g) < 0.8
        rng = torch.arange(3 * batch).view(batch, 3)
        first = (length, root, active, rng, end, tokens, path, count, following.to(index))
        kwargs = {} if eos is None else {"eos": torch.tensor(eos, device=device)}
        if cache:
            kwargs["kv_len"] = (length - 1).clamp(min=0).to(device)
        return (_keep_strides(text, device), *(t.to(device) for t in first)), kwargs

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


def sample(
    mode,
    batch,
    nodes,
    *,
    vocab=11,
    shape="random",
    ragged=False,
    dtype=torch.float32,
    draft=None,  # dense, sparse, or None
    filters=False,
    penalty=False,
    special=False,
    merged=False,
    eos=None,
    ties=False,
    temperature=(1.0, 0.6, 0.0, 1.7),
    **options,
):
    """Trees whose nodes are plausible draws; a third of the draft rows are shared or certain."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 1000 + nodes + vocab)
        trees = [random_tree(nodes, g, shape) for _ in range(batch)]
        parent = torch.tensor(trees, dtype=torch.int32).reshape(batch, nodes)
        tokens = torch.randint(0, vocab, (batch, nodes), generator=g)
        logits = torch.randn(batch, nodes, vocab, generator=g) * 1.5
        if ties:
            logits = logits.round()
        logits.scatter_add_(2, tokens[:, :, None], torch.ones(batch, nodes, 1))
        if special:
            kind = torch.randint(0, 12, logits.shape, generator=g)
            for which, value in enumerate((torch.nan, -torch.inf, torch.inf)):
                logits = torch.where(kind == which, value, logits)
            logits[::3, 1::4] = torch.nan
        count = torch.full((batch,), nodes, dtype=torch.int32)
        if ragged:
            count = torch.randint(0, nodes + 1, (batch,), generator=g, dtype=torch.int32)
        rng = torch.randint(-(2**40), 2**40, (batch, 3), generator=g)
        kwargs = {"temperature": torch.tensor(temperature).repeat(batch)[:batch]}
        pick = torch.arange(batch)
        if filters:
            kwargs["top_k"] = torch.tensor([0, 3, 5, vocab, 1])[pick % 5]
            kwargs["top_p"] = torch.tensor([0.8, 1.0, 0.5, 0.9])[pick % 4]
            kwargs["min_p"] = torch.tensor([0.0, 0.1, 0.0])[pick % 3]
        if penalty:
            kwargs["repetition_penalty"] = torch.tensor([1.3, 1.0, 0.8])[pick % 3]
            words = torch.randint(-(2**31), 2**31, (batch, (vocab + 31) // 32), generator=g)
            kwargs["seen"] = words.int()
        draws = nodes
        if merged:  # twice as many draws as nodes, some of no node
            draws = 2 * nodes
            kwargs["draws"] = torch.randint(-1, nodes, (batch, draws), generator=g)
        if draft == "dense":
            kwargs["draft_logits"] = (torch.randn(batch, nodes, vocab, generator=g) * 2).to(dtype)
            kwargs["draft_temperature"] = torch.tensor([1.0, 0.5, 2.0])[pick % 3]
        if draft == "sparse":  # some ids, the drafted tokens among them; half an eighth each
            ids = torch.randint(0, vocab, (batch, nodes, 8), generator=g)
            below = torch.where(parent[:, 1:] >= 0, parent[:, 1:].long(), 0)
            for i in range(1, nodes):
                ids[torch.arange(batch), below[:, i - 1], i % 8] = tokens[:, i]
            kwargs["draft_ids"] = ids
            probs = torch.rand(batch, nodes, 8, generator=g) + 0.1
            kwargs["draft_probs"] = probs / probs.sum(-1, keepdim=True)
        if draft and mode != "kseq" and draft != "sparse":
            own = parent.clamp(min=0).long()
            if merged:
                own = own.gather(1, kwargs["draws"].clamp(min=0))
            kind = torch.randint(0, 6, (batch, draws), generator=g)
            kwargs["draft_row"] = torch.where(kind == 0, -1, torch.where(kind == 1, 0, own))
        kwargs = {name: t.to(device) for name, t in kwargs.items()} | options
        if eos is not None:
            kwargs["eos"] = torch.tensor(eos, device=device)
        logits = logits.to(dtype)
        args = tuple(t.to(device) for t in (tokens, parent, count, logits))
        return (*args, mode, rng.to(device)), kwargs

    return make


def _keep_strides(t, device):
    """The same view on another device: `Tensor.to` would pack it."""
    storage = torch.as_strided(t, (t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return torch.as_strided(storage.to(device), t.shape, t.stride(), t.storage_offset())


bf16, f16 = torch.bfloat16, torch.float16
VERIFY_SAMPLE = [
    Sample("walk-one-node", sample("walk", 4, 1)),
    Sample("walk-empty-batch", sample("walk", 0, 5)),
    Sample("walk-one-token", sample("walk", 3, 4, vocab=1)),
    Sample("walk-ragged", sample("walk", 9, 12, vocab=4, ragged=True)),
    Sample("walk-eos", sample("walk", 9, 12, vocab=3, eos=[1, 7])),
    Sample("walk-filters", sample("walk", 12, 9, vocab=40, filters=True, penalty=True)),
    Sample("walk-ties-bf16", sample("walk", 12, 5, vocab=300, filters=True, ties=True, dtype=bf16)),
    Sample("walk-special", sample("walk", 12, 9, special=True, filters=True, dtype=f16)),
    Sample("walk-wide", sample("walk", 3, 3, vocab=3001, filters=True, penalty=True)),
    Sample("rrs-dense", sample("rrs", 12, 20, vocab=7, draft="dense")),
    Sample("rrs-special", sample("rrs", 12, 20, vocab=9, draft="dense", special=True, eos=[2])),
    Sample("rrs-filters-bf16", sample("rrs", 12, 17, draft="dense", filters=True, dtype=bf16)),
    Sample("rrs-certain", sample("rrs", 9, 17, vocab=5, penalty=True)),
    Sample("rrs-star", sample("rrs", 6, 33, vocab=40, shape="star", draft="dense")),
    Sample("rrs-sparse", sample("rrs", 9, 7, vocab=30, draft="sparse", filters=True)),
    Sample("rrs-wide", sample("rrs", 3, 9, vocab=2500, draft="dense")),
    Sample("wr-merged", sample("rrs_wr", 12, 12, vocab=6, draft="dense", merged=True)),
    Sample("wr-sparse", sample("rrs_wr", 6, 7, vocab=20, draft="sparse", merged=True)),
    Sample("kseq-dense", sample("kseq", 12, 12, vocab=6, draft="dense", ragged=True)),
    Sample("kseq-merged-f16", sample("kseq", 9, 9, draft="dense", merged=True, dtype=f16)),
    Sample("kseq-sparse", sample("kseq", 6, 7, vocab=20, draft="sparse", filters=True)),
    Sample("block-dense", sample("block", 16, 9, vocab=5, shape="chain", draft="dense")),
    Sample("block-special", sample("block", 9, 9, shape="chain", draft="dense", special=True)),
    Sample("block-sparse", sample("block", 9, 6, shape="chain", draft="sparse", penalty=True)),
    Sample("block-certain", sample("block", 9, 6, vocab=3, shape="chain", eos=[2])),
    Sample("typical", sample("lossy_typical", 12, 20, vocab=5, filters=True, penalty=True)),
    Sample("typical-special", sample("lossy_typical", 12, 20, special=True, eos=[1], delta=0.1)),
    Sample("grouped", sample("lossy_grouped", 12, 9, shape="chain", draft="dense", group_size=3)),
    Sample("grouped-sparse", sample("lossy_grouped", 9, 6, shape="chain", draft="sparse")),
]

SAMPLES = {
    "tree_verify_sample": VERIFY_SAMPLE,
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
    "tree_append_": [
        Sample("one-node", append(3, 1)),
        Sample("empty-batch", append(0, 5)),
        Sample("ragged", append(17, 9)),
        Sample("eos", append(17, 9, eos=[3, 99])),
        Sample("strided-int64", append(5, 6, strided=True, eos=[1], index=torch.int64)),
        Sample("long-path-70", append(6, 70, width=120, vocab=90, eos=[7])),
        Sample("with-a-cache", append(11, 7, eos=[2], cache=True)),
    ],
    "tree_merge": [
        Sample("one-node", merge(2, 1)),
        Sample("no-nodes", merge(2, 0)),
        Sample("empty-batch", merge(0, 5)),
        Sample("chain-33", merge(2, 33, shape="chain", vocab=1)),
        Sample("star-81", merge(3, 81, shape="star", none=True)),
        Sample("all-one-word", merge(3, 40, vocab=1)),
        Sample("some-none", merge(7, 31, none=True)),
        Sample("int32-strided", merge(3, 65, dtype=torch.int32, strided=True)),
        Sample("large-ids", merge(2, 50, vocab=2**31 - 1)),
        Sample("wide-1024", merge(1, 1024, vocab=4), opcheck=False),
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
        Sample("three-ranks", verify(4, 30, vocab=2, ragged=True, ranked=3)),
        Sample("one-rank-strided", verify(3, 9, strided=True, ranked=1)),
    ],
}
