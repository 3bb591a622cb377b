"""Samples of the tree room."""

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


SAMPLES = {
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
