"""Rows of `tree_verify_sample` that are cut for threads, and draft rows beyond those it keeps."""

import pytest
import torch

from tokenburst import _C, ops

MODES = ["walk", "rrs", "rrs_wr", "kseq", "block", "lossy_typical", "lossy_grouped"]
V = 33_409  # the last block of 512 has 129 logits


def case(mode, near, batch=2, nodes=9, vocab=V, seed=3):
    """Trees of which many draws pass (`near`: drafts resemble the target) or hardly any."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, nodes, vocab, generator=g) * 2
    draft = logits * 0.9 + torch.randn(logits.shape, generator=g) * (0.3 if near else 2)
    logits[1, :, 700:900], logits[0, :, 5000] = -torch.inf, torch.nan
    parent = [-1] + [i - 1 if mode == "block" else (i - 1) // 4 for i in range(1, nodes)]
    q = draft.softmax(-1)
    tokens = torch.zeros(batch, nodes, dtype=torch.int64)
    for b in range(batch):
        for node in sorted(set(parent[1:])):
            below = [i for i in range(nodes) if parent[i] == node]
            tokens[b, below] = q[b, node].multinomial(len(below), generator=g)
    return {
        "tokens": tokens,
        "parent": torch.tensor([parent] * batch),
        "n_nodes": torch.full((batch,), nodes),
        "logits": logits,
        "mode": mode,
        "rng": torch.arange(batch)[:, None].repeat(1, 3),
        "draft_logits": draft,
    }


def variants(args):
    yield args
    yield args | {"top_k": torch.tensor([40, 0]), "top_p": torch.tensor([0.9, 0.95])}
    yield args | {"repetition_penalty": torch.tensor([1.3, 1.0]), "temperature": torch.ones(2) * 2}
    if args["mode"] in ("rrs", "rrs_wr"):  # draws of four draft rows; two are kept in memory
        yield args | {"draft_row": torch.arange(9).remainder(4).repeat(2, 1)}


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
@pytest.mark.parametrize("mode", MODES)
def test_threads_and_instruction_set_do_not_matter(mode, near):
    before, isa = torch.get_num_threads(), _C.isa()
    for args in variants(case(mode, near)):
        results = []
        for threads, name in ((1, isa), (3, isa), (3, "portable")):
            torch.set_num_threads(threads)
            _C.set_isa(name)
            results.append(ops.tree_verify_sample(**args))
        torch.set_num_threads(before)
        _C.set_isa(isa)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_reference_on_long_rows(mode):
    from tokenburst.ref.verify import tree_verify_sample as reference

    for near in (True, False):
        for args in variants(case(mode, near, nodes=9, seed=4)):
            want = reference(**args)
            got = ops.tree_verify_sample(**args)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("draws", [2, 3, 6])
def test_kseq_finds_the_rho_of_exact_sums(draws):
    # Whatever the bounds of the accepted mass leave open is summed exactly: 256 problems that end
    # in a residual, each drawn from by its own random numbers.
    from tokenburst.ref.verify import tree_verify_sample as reference

    g = torch.Generator().manual_seed(draws)
    n, vocab = 256, 1100
    logits = torch.randn(n, 1, vocab, generator=g) * 2
    draft = logits * torch.rand(n, 1, 1, generator=g) + torch.randn(n, 1, vocab, generator=g)
    drawn = draft[:, 0].softmax(-1).multinomial(draws, replacement=True, generator=g)
    nodes = draws + 1
    args = {
        "tokens": torch.cat([torch.zeros(n, 1, dtype=torch.int64), drawn], 1),
        "parent": torch.tensor([[-1] + [0] * draws]).repeat(n, 1),
        "n_nodes": torch.full((n,), nodes),
        "logits": logits.expand(n, nodes, vocab).contiguous(),
        "mode": "kseq",
        "rng": torch.arange(n)[:, None].repeat(1, 3),
        "draft_logits": draft.expand(n, nodes, vocab).contiguous(),
    }
    got, want = ops.tree_verify_sample(**args), reference(**args)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
