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
    extra=(),
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
        kind = {
            "factor": lambda: torch.randint(0, 9, (batch,), generator=g) / 4,
            "budget": lambda: torch.randint(0, 9, (batch,), generator=g) / 2,
            "most": lambda: torch.randint(0, 6, (batch,), generator=g, dtype=index),
            "near": lambda: torch.randint(-2, 2, (batch,), generator=g) / 2,
            "reveal": lambda: torch.rand(batch, generator=g),
            "noise": lambda: torch.randint(0, 3, (batch,), generator=g) / 2,
            "damping": lambda: torch.randint(0, 3, (batch,), generator=g) / 2,
            "edit": lambda: torch.randint(-2, 2, (batch,), generator=g) / 2,
        }
        options |= {name: kind[name]() for name in extra}
        if "damping" in extra:
            options["damped"] = torch.tensor([1, 3], dtype=index)
        if random or "reveal" in extra or "noise" in extra:
            options["rng"] = torch.randint(-(2**62), 2**62, (batch, 3), generator=g)
        if not random:
            options["score"] = score
        move = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
        x = torch.cat([x, x], 1).to(device)[:, :length] if strided else x.to(device)
        return (x, position.to(device, index), token.to(device), MASK), move

    return make


def remask(batch, length, candidates, *, rules=("top_k",), dtype=torch.int64, **kwargs):
    """Ties, duplicate and absent positions, masks among the tokens, overlapping spans."""

    def make(device):
        g = torch.Generator().manual_seed(batch * 100 + length)
        x = torch.randint(0, MASK, (batch, length), generator=g).to(dtype)
        x[torch.rand(x.shape, generator=g) < 0.2] = MASK
        span = kwargs.get("span", 1)
        position = torch.randint(-1, max(0, length - span) + 1, (batch, candidates), generator=g)
        score = torch.randint(-2, 3, (batch, candidates), generator=g) / 2
        score[torch.rand(score.shape, generator=g) < 0.1] = torch.nan
        given = {
            "top_k": torch.randint(0, candidates + 2, (batch,), generator=g),
            "threshold": torch.randint(-2, 3, (batch,), generator=g) / 2,
            "most": torch.randint(0, 5, (batch,), generator=g, dtype=torch.int32),
            "probability": torch.rand(batch, candidates, generator=g),
        }
        options = {rule: given[rule] for rule in rules} | {"score": score} | kwargs
        if "probability" in rules:
            options["rng"] = torch.randint(-(2**62), 2**62, (batch, 3), generator=g)
        move = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
        return (x.to(device), position.to(device), MASK), move

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
        Sample("factor", select(7, 30, 40, rules=(), extra=("factor",))),
        Sample(
            "factor-or-strict",
            select(7, 30, 40, rules=EVERY[1:], extra=("factor", "most"), strict=True),
        ),
        Sample("budget", select(7, 30, 40, rules=(), extra=("budget",), lowest_first=True)),
        Sample(
            "budget-hostile",
            select(
                7,
                30,
                40,
                rules=EVERY[:1],
                extra=("budget", "most"),
                values="hostile",
                lowest_first=True,
            ),
        ),
        Sample("most", select(6, 20, 17, rules=EVERY, extra=("most",))),
        Sample("near", select(9, 40, 44, rules=EVERY[1:2], extra=("near",), reach=2)),
        Sample(
            "near-strict-lowest",
            select(
                9, 40, 44, rules=EVERY[:2], extra=("near",), reach=4, strict=True, lowest_first=True
            ),
        ),
        Sample("reveal", select(6, 30, 40, rules=(), extra=("reveal",))),
        Sample("reveal-random", select(6, 30, 40, rules=EVERY[:1], extra=("reveal",), random=True)),
        Sample("noise", select(6, 30, 40, extra=("noise",))),
        Sample("noise-lowest", select(6, 30, 40, extra=("noise",), lowest_first=True)),
        Sample("damped", select(6, 30, 40, rules=EVERY[1:], extra=("damping",), index=torch.int64)),
        Sample("edit", select(6, 30, 40, rules=EVERY[:2], extra=("edit",))),
        Sample("edit-strict", select(6, 30, 40, rules=(), extra=("edit", "damping"), strict=True)),
        Sample(
            "factor-1300",
            select(2, 1400, 1300, rules=(), values="in-order", extra=("factor",)),
            opcheck=False,
        ),
        Sample("distinct-1023", select(2, 1100, 1023, values="in-order"), opcheck=False),
        Sample("many-2500", select(2, 3000, 2500), opcheck=False),
    ],
    "unmask_remask_": [
        Sample("one", remask(1, 1, 1)),
        Sample("empty-batch", remask(0, 5, 3)),
        Sample("no-candidates", remask(2, 5, 0)),
        Sample("lowest", remask(6, 20, 17)),
        Sample("below", remask(6, 20, 17, rules=("threshold",), dtype=torch.int32)),
        Sample("capped", remask(6, 20, 17, rules=("top_k", "threshold", "most"))),
        Sample("chance", remask(6, 20, 17, rules=("probability",))),
        Sample("spans", remask(6, 40, 17, rules=("top_k", "most", "probability"), span=3)),
        Sample("span-too-long", remask(2, 4, 5, span=3)),
        Sample("many-1300", remask(2, 1500, 1300), opcheck=False),
    ],
}
