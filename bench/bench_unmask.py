"""Masked diffusion: committing the chosen proposals of a block."""

import torch

from harness import Case, main, nbytes
from tokenburst import ops

MASK = 126336


def top_k_eager(x, position, token, score, k):
    """LLaDA's transfer step: the best k of the masked positions, the same k in all sequences."""
    masked = x.gather(1, position) == MASK
    best = score.masked_fill(~masked, -torch.inf).topk(k).indices
    transfer = torch.zeros_like(masked).scatter_(1, best, True) & masked
    x.scatter_(1, position, torch.where(transfer, token, x.gather(1, position)))
    return transfer, transfer.sum(1), (masked & ~transfer).sum(1)


def threshold_eager(x, position, token, score, threshold):
    """All masks at or above the threshold, at least the best one."""
    current = x.gather(1, position)
    masked = current == MASK
    score = score.masked_fill(~masked, -torch.inf)
    transfer = score >= threshold[:, None]
    transfer.scatter_(1, score.argmax(1, keepdim=True), True)
    transfer &= masked
    x.scatter_(1, position, torch.where(transfer, token, current))
    return transfer, transfer.sum(1), (masked & ~transfer).sum(1)


def case(batch, length, rule, device):
    start = torch.full((batch, length), MASK, device=device)
    decided = torch.rand(batch, length, device=device) < 0.25
    start[decided] = 7
    x = start.clone()
    position = torch.arange(length, device=device).repeat(batch, 1)
    token = torch.randint(0, MASK, (batch, length), device=device)
    score = torch.rand(batch, length, device=device)
    top_k = torch.full((batch,), 8, device=device)
    threshold = torch.full((batch,), 0.9, device=device)
    if rule == "top-k":
        rules, eager = {"top_k": top_k}, lambda: top_k_eager(x, position, token, score, 8)
    else:
        rules = {"threshold": threshold, "min_one": True}
        eager = lambda: threshold_eager(x, position, token, score, threshold)  # noqa: E731

    def ours():
        return ops.unmask_select_(x, position, token, MASK, score=score, **rules)

    def prepare():
        x.copy_(start)

    def check():
        prepare()
        want, want_x = eager(), x.clone()
        prepare()
        got = ours()
        assert torch.equal(x, want_x)
        assert all(torch.equal(a.long(), b.long()) for a, b in zip(got[:3], want, strict=True))

    baseline = {"topk + scatter" if rule == "top-k" else "compare + argmax + scatter": eager}
    name = f"[{batch},{length}] {rule} fp32"
    moved = nbytes(x, position, token, score)
    return Case("unmask_select_", name, ours, baseline, check, moved, prepare=prepare)


def remask_case(batch, length, device):
    start = torch.randint(0, MASK, (batch, length), device=device)
    x = start.clone()
    position = torch.arange(length, device=device).repeat(batch, 1)
    score = torch.rand(batch, length, device=device)
    top_k = torch.full((batch,), 8, device=device)

    def ours():
        return ops.unmask_remask_(x, position, MASK, score=score, top_k=top_k)

    def eager():
        return x.scatter_(1, score.topk(8, largest=False).indices, MASK)

    def check():
        x.copy_(start)
        want = eager().clone()
        x.copy_(start)
        ours()
        assert torch.equal(x, want)

    moved = nbytes(x, position, score)
    name = f"[{batch},{length}] lowest 8 fp32"
    prepare = lambda: x.copy_(start)  # noqa: E731
    baseline = {"topk + scatter": eager}
    return Case("unmask_remask_", name, ours, baseline, check, moved, prepare=prepare)


def cases(device):
    yield remask_case(8, 256, device)
    for rule in ("top-k", "threshold"):
        yield case(8, 256, rule, device)
    for rule in ("top-k", "threshold"):
        yield case(1, 32, rule, device)


if __name__ == "__main__":
    main(cases)
