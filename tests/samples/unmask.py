"""Samples of the unmask room."""

import torch

from samples import Sample

MASK = 5


def select(
    batch,
    length,
    candidates,
    *,
    rules=("top_k",),
    values="ties",
    dtype=torch.int64,
    index=torch.int32,
    strided=False,
    random=False,
    **kwargs,
):
    """Few distinct scores, duplicate positions, decided places and missing proposals throughout."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 10000 + length * 100 + candidates)
        x = torch.randint(0, MASK + 1, (batch, length), generator=g).to(dtype)
        x[torch.rand(x.shape, generator=g) < 0.6] = MASK
        position = torch.randint(-1, length, (batch, candidates), generator=g)
        if values == "in-order":
            position = torch.arange(candidates).expand(batch, -1)
        token = torch.randint(-1, MASK + 2, (batch, candidates), generator=g).to(index)
        score = torch.randint(-2, 3, (batch, candidates), generator=g) / 2
        if values == "hostile":
            odd = torch.tensor(
                [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-42, -1e-42]
            )
            score = odd[torch.randint(0, 7, (batch, candidates), generator=g)]
        if values == "in-order":
            score = torch.rand(batch, candidates, generator=g)
        if strided:
            score = score.t().contiguous().t()
            token = token.repeat_interleave(2, 1)[:, ::2]
        given = {
            "top_k": torch.randint(0, candidates + 3, (batch,), generator=g, dtype=index),
            "threshold": torch.randint(-1, 3, (batch,), generator=g) / 2,
            "commit_all": torch.rand(batch, generator=g) < 0.3,
            "min_one": True,
        }
        options = {rule: given[rule] for rule in rules} | kwargs
        if random:
            options["rng"] = torch.randint(-(2**62), 2**62, (batch, 3), generator=g)
        else:
            options["score"] = score
        move = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
        x = torch.cat([x, x], 1).to(device)[:, :length] if strided else x.to(device)
        return (x, position.to(device, index), token.to(device), MASK), move

    return make


EVERY = ("top_k", "threshold", "commit_all", "min_one")
SAMPLES = {
    "unmask_select_": [
        Sample("one", select(1, 1, 1, rules=("min_one",))),
        Sample("empty-batch", select(0, 5, 3)),
        Sample("no-candidates", select(3, 7, 0, rules=EVERY)),
        Sample("no-positions", select(2, 0, 4, rules=EVERY)),
        Sample("top-k-ties", select(5, 33, 31)),
        Sample("threshold-ties", select(6, 20, 17, rules=("threshold",))),
        Sample("threshold-or-one", select(6, 40, 32, rules=("threshold", "min_one"))),
        Sample("commit-all", select(7, 12, 9, rules=("commit_all",))),
        Sample("all-rules-int32", select(9, 19, 23, rules=EVERY, dtype=torch.int32)),
        Sample("nan-and-infinities", select(8, 30, 40, rules=EVERY[:2], values="hostile")),
        Sample(
            "lowest-first",
            select(8, 30, 40, rules=EVERY[:2], values="hostile", lowest_first=True, min_one=True),
        ),
        Sample("entropy-ties", select(5, 16, 16, rules=EVERY[1:], lowest_first=True)),
        Sample("strided", select(4, 21, 13, strided=True, index=torch.int64)),
        Sample("random-order", select(4, 50, 37, random=True)),
        Sample("random-threshold", select(4, 50, 37, rules=("threshold",), random=True)),
        Sample("distinct-1023", select(2, 1100, 1023, values="in-order"), opcheck=False),
        Sample("many-2500", select(2, 3000, 2500), opcheck=False),
    ]
}
