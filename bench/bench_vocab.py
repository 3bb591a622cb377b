"""One sweep over the vocabulary: what a decoding step asks of its logits."""

from itertools import product

import torch

from eager_filter import best_few, nucleus, nucleus_of_best
from harness import Case, main, nbytes, short
from shapes import MODELS
from tokenburst import ops


def all_stats(logits, k):
    """The same statistics by eager calls, each the cheapest form that is exact enough."""
    x = logits.float()
    values, ids = x.topk(max(k, 2))
    lse = x.logsumexp(-1)
    p = (x - lse[:, None]).exp_()
    confidence = (values - lse[:, None]).exp()
    entropy = lse - (p * x).sum(-1)
    return ids[:, :k], values[:, :k], lse, confidence[:, 0], entropy


def softmax_gather(logits):
    """The proposal and its confidence as LLaDA's sampling code has it."""
    token = logits.argmax(-1)
    return token, logits.float().softmax(-1).gather(1, token[:, None]).squeeze(1)


def max_logsumexp(logits):
    x = logits.float()
    value, token = x.max(-1)
    return token, (value - x.logsumexp(-1)).exp()


def gumbel(logits):
    """A draw and its probability; the noise is another one than ours."""
    x = logits.float()
    noise = torch.empty_like(x).exponential_().log_()
    token = (x - noise).argmax(-1)
    return token, (x.gather(1, token[:, None]).squeeze(1) - x.logsumexp(-1)).exp()


def make(rows, vocab, dtype, device):
    return (torch.randn(rows, vocab, device=device) * 3).to(dtype)


def tree_case(rows, vocab, dtype, k, device):
    logits = make(rows, vocab, dtype, device)

    def check():
        ours, theirs = ops.vocab_stats(logits, k), all_stats(logits, k)
        assert torch.equal(ours.values, theirs[1])  # bf16 logits tie, so ids may differ
        torch.testing.assert_close(ours.lse, theirs[2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.confidence, theirs[3], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.entropy, theirs[4], rtol=1e-3, atol=1e-3)

    return Case(
        "vocab_stats",
        f"[{rows},{vocab}] k={k} {short(dtype)}",
        lambda: ops.vocab_stats(logits, k),
        {"topk + logsumexp + exp + sums": lambda: all_stats(logits, k)},
        check,
        moved=nbytes(logits),
        dtype=dtype,
    )


def top_case(rows, vocab, dtype, k, device):
    logits = make(rows, vocab, dtype, device)

    def check():
        assert torch.equal(ops.vocab_top(logits, k).values, logits.topk(k).values.float())

    return Case(
        "vocab_top",
        f"[{rows},{vocab}] k={k} {short(dtype)}",
        lambda: ops.vocab_top(logits, k),
        {"topk": lambda: logits.topk(k), "argmax": lambda: logits.argmax(-1)},
        check,
        moved=nbytes(logits),
        dtype=dtype,
    )


def diffusion_case(rows, vocab, dtype, device, temperature=None):
    logits = make(rows, vocab, dtype, device)
    draw = {}
    baselines = {
        "argmax + softmax + gather": lambda: softmax_gather(logits),
        "max + logsumexp": lambda: max_logsumexp(logits),
    }
    if temperature:
        draw["temperature"] = torch.full((rows,), temperature, device=device)
        draw["rng"] = torch.arange(rows, device=device)[:, None].repeat(1, 4)
        baselines = {"exponential noise + argmax + logsumexp": lambda: gumbel(logits)}

    def check():
        ours = ops.vocab_stats(logits, 1, **draw)
        token = ours.token if temperature else logits.argmax(-1)
        p = logits.float().softmax(-1).gather(1, token[:, None]).squeeze(1)
        torch.testing.assert_close(ours.confidence, p, rtol=1e-4, atol=1e-6)

    name = f"[{rows},{vocab}] k=1{' sampled' if temperature else ''} {short(dtype)}"
    ours = lambda: ops.vocab_stats(logits, 1, **draw)  # noqa: E731
    return Case("vocab_stats", name, ours, baselines, check, nbytes(logits), dtype=dtype)


def filter_case(rows, vocab, dtype, device, top_k=None):
    """With top-k: by it alone."""
    logits = make(rows, vocab, dtype, device)
    noise = -torch.empty(rows, vocab, device=device).exponential_().log_()
    options = {
        "temperature": torch.full((rows,), 0.7, device=device),
        "rng": torch.arange(rows, device=device)[:, None].repeat(1, 4),
    }
    if top_k:
        options["top_k"] = torch.full((rows,), top_k, device=device)
        baseline = {"topk + softmax + argmax": lambda: best_few(logits, noise, top_k, 0.7)}
    else:
        options["top_p"] = torch.full((rows,), 0.9, device=device)
        given = logits, noise, 0.9, 0.7
        baseline = {
            "sort + cumsum + softmax + argmax": lambda: nucleus(*given),
            "topk + logsumexp + cumsum + softmax + argmax": lambda: nucleus_of_best(*given),
        }

    def check():
        ours = ops.vocab_filter(logits, tempered=True, **options)
        if top_k:
            assert bool((ours.n_kept >= top_k).all())  # ties stay
            return
        kept = nucleus(logits, noise, 0.9, 0.7)[2]
        assert float((ours.n_kept - kept).abs().max()) <= 2  # float sums cross a little elsewhere

    name = f"[{rows},{vocab}] {f'top-k={top_k}' if top_k else 'top-p'} sampled {short(dtype)}"
    ours = lambda: ops.vocab_filter(logits, tempered=True, **options)  # noqa: E731
    return Case("vocab_filter", name, ours, baseline, check, nbytes(logits), dtype=dtype)


def cases(device):
    small, large, masked = (MODELS[m].vocab for m in ("Llama-2-7B", "Llama-3-8B", "LLaDA-8B"))
    yield top_case(16, 2048, torch.float32, 8, device)
    yield top_case(81, large, torch.float32, 8, device)
    yield top_case(81, small, torch.bfloat16, 8, device)
    yield filter_case(8, small, torch.float32, device)
    for name, dtype in product(("LLaDA-8B", "Dream-7B"), (torch.float32, torch.bfloat16)):
        yield filter_case(32, MODELS[name].vocab, dtype, device)
    yield filter_case(32, masked, torch.bfloat16, device, top_k=50)
    yield tree_case(81, large, torch.float32, 8, device)
    yield tree_case(81, small, torch.bfloat16, 8, device)
    for dtype in (torch.float32, torch.bfloat16):
        yield diffusion_case(64, masked, dtype, device)
    yield diffusion_case(64, masked, torch.bfloat16, device, temperature=1.0)


if __name__ == "__main__":
    main(cases)
