"""Masked diffusion: a whole unmasking step from its logits, and committing the chosen proposals."""

import torch

from harness import Case, main, nbytes, short
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


def step_eager(logits, x, k, dtype):
    """LLaDA's step after its forward: argmax, softmax, gather, then the best k masked positions."""
    masked = x == MASK
    proposal = logits.argmax(-1)
    p = logits.to(dtype).softmax(-1).gather(-1, proposal[..., None]).squeeze(-1)
    best = p.masked_fill(~masked, -torch.inf).topk(k).indices
    transfer = torch.zeros_like(masked).scatter_(1, best, True) & masked
    return torch.where(transfer, proposal, x)


def step_case(length, dtype, device):
    """One step at [1, length, 126464]; `peak_mb` of each side is in the JSON."""
    logits = torch.randn(1, length, 126464, device=device).mul_(3).to(dtype)
    start = torch.full((1, length), MASK, device=device)
    x, position = start.clone(), torch.arange(length, device=device)[None]
    top_k = torch.full((1,), 8, device=device)

    def ours():
        stats = ops.vocab_stats(logits, 1)
        token, score = stats.ids.view(1, length), stats.confidence.view(1, length)
        return ops.unmask_select_(x, position, token, MASK, score=score, top_k=top_k)

    def prepare():
        x.copy_(start)

    def check():  # 16-bit logits tie, and the eager argmax may take another id of the best
        prepare()
        ours()
        want = step_eager(logits, start, 8, torch.float64)
        same = (
            logits.gather(-1, x.where(x != MASK, 0)[..., None]),
            logits.gather(-1, want.where(want != MASK, 0)[..., None]),
        )
        assert torch.equal(*same) and torch.equal(x == MASK, want == MASK)

    baselines = {
        "eager step": lambda: step_eager(logits, start, 8, torch.float32),
        "eager step in float64": lambda: step_eager(logits, start, 8, torch.float64),
    }
    if dtype != torch.float32:  # softmax of the logits as they come, which costs precision
        baselines["eager step in the logits' dtype"] = lambda: step_eager(logits, start, 8, dtype)
    name = f"[1,{length},126464] {short(dtype)}"
    return Case("unmask step", name, ours, baselines, check, nbytes(logits), 0, dtype, prepare)


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
    for dtype in (torch.float32, torch.bfloat16):
        yield step_case(64, dtype, device)
    yield remask_case(8, 256, device)
    for rule in ("top-k", "threshold"):
        yield case(8, 256, rule, device)
    for rule in ("top-k", "threshold"):
        yield case(1, 32, rule, device)


def more(device):
    for length in (32, 128, 256):
        for dtype in (torch.float32, torch.bfloat16):
            yield step_case(length, dtype, device)


if __name__ == "__main__":
    main(cases, more)
