"""Block patterns: every constructor against a plain statement of what it selects."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from tokenburst import BlockPattern


def random_flags(*shape, density=0.4):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) < density


def lists_of(flags):
    """Counts and indices; what follows a row's count is garbage that nobody may read."""
    order = flags.int().argsort(dim=-1, descending=True, stable=True)
    counts = flags.sum(-1)
    rest = torch.arange(flags.shape[-1]) >= counts[..., None]
    return counts.int(), torch.where(rest, -7, order).int()


def tokens(pattern):
    """[q_length, kv_length]: which token pairs the pattern lets through."""
    block = pattern.block
    full = pattern.to_bool()[0, 0].repeat_interleave(block, 0).repeat_interleave(block, 1)
    return full[: pattern.q_length, : pattern.kv_length]


@pytest.mark.parametrize("nk", [1, 31, 32, 33, 64, 100])
def test_bits_and_lists_round_trip(nk):
    flags = random_flags(2, 3, 5, nk)
    flags[0, 0] = True
    flags[0, 1] = False
    pattern = BlockPattern.from_bool(flags, 32)
    assert pattern.bits.dtype == torch.int32
    assert pattern.bits.shape == (2, 3, 5, -(-nk // 32))
    assert torch.equal(pattern.to_bool(), flags)
    j = nk - 1
    assert torch.equal(pattern.bits[..., j // 32] >> j % 32 & 1, flags[..., j].int())
    assert pattern.density == pytest.approx(flags.double().mean().item())
    assert pattern.nbytes == 2 * 3 * 5 * 4 * -(-nk // 32)
    listed = BlockPattern.from_lists(*lists_of(flags), 32, 5 * 32 - 7, nk * 32 - 31)
    assert torch.equal(listed.bits, pattern.bits)
    assert (listed.q_length, listed.kv_length) == (5 * 32 - 7, nk * 32 - 31)
    assert torch.equal(pattern.to("cpu").bits, pattern.bits)


def test_bits_past_the_last_block_mean_nothing():
    pattern = BlockPattern(torch.full((1, 1, 2, 2), -1, dtype=torch.int32), 64, 128, 64 * 40)
    assert pattern.to_bool().shape == (1, 1, 2, 40) and pattern.density == 1.0


@pytest.mark.parametrize(
    ("counts", "indices", "message"),
    [
        ([[[1, 4]]], [[[[0, 1, 2], [0, 1, 2]]]], "counts: expected 0 to 3, got 4"),
        ([[[1, -1]]], [[[[0, 1, 2], [0, 1, 2]]]], "counts: expected 0 to 3, got -1"),
        ([[[1, 2]]], [[[[0, 9, 9], [0, 5, 9]]]], r"indices: expected 0 to 4 \(5 kv .*got 5"),
        ([[[3, 1]]], [[[[0, 1, -1], [0, 1, 2]]]], "indices: expected 0 to 4 .*got -1"),
        (
            [[[1, 3]]],
            [[[[0, 0, 0], [2, 3, 2]]]],
            r"indices: expected each kv block once .*got 2 twice .*\[0, 0, 1\]",
        ),
        ([[[1]]], [[[[0, 1, 2]]]], r"counts: expected integers \[B, H, 2\]"),
        ([[[1, 1]]], [[[0, 1]]], r"indices: expected integers \[1, 1, 2, K\]"),
    ],
)
def test_lists_that_are_refused(counts, indices, message):
    with pytest.raises(ValueError, match="BlockPattern.from_lists: " + message):
        BlockPattern.from_lists(torch.tensor(counts), torch.tensor(indices), 32, 64, 160)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockPattern.dense(10, 10, block=48), r"block: expected one of .*got 48"),
        (lambda: BlockPattern.dense(-1, 10), "expected lengths >= 0, got -1 and 10"),
        (lambda: BlockPattern(torch.zeros(1, 1, 1, 1), 32, 32, 32), "bits: expected int32"),
        (
            lambda: BlockPattern(torch.zeros(1, 1, 2, 1).int(), 32, 32, 32),
            r"bits: expected int32 \[B, H, 1, 1\] for 32 queries .*got torch.int32 \[1, 1, 2, 1\]",
        ),
        (
            lambda: BlockPattern.from_bool(torch.ones(1, 1, 2, 2).bool(), 64, kv_length=129),
            "flags: expected 2 x 3 blocks of 64 for 128 queries and 129 keys, got 2 x 2",
        ),
        (lambda: BlockPattern.from_bool(torch.ones(2, 2), 64), r"flags: expected bool \[B, H"),
        (
            lambda: BlockPattern.sink_and_window(9, 8, sink=0, window=1),
            "q_length: expected at most the 8 keys, got 9",
        ),
        (
            lambda: BlockPattern.sink_and_window(8, 8, sink=-1, window=1),
            "expected sink and window >= 0",
        ),
        (lambda: BlockPattern.block_causal(64, 64, span=96), "span: expected a multiple of the"),
        (lambda: BlockPattern.block_causal(60, 64), "kv_length - q_length to be a multiple"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("full", [True, False], ids=["full lists", "no mask_mod"])
def test_from_block_mask(full):
    flags = random_flags(2, 3, 4, 6)
    counts, indices = lists_of(flags)
    indices = indices.clamp(min=0)
    none = torch.zeros_like(counts), torch.zeros_like(indices)
    lists = (*none, counts, indices) if full else (counts, indices)
    mask = BlockMask.from_kv_blocks(
        *lists, BLOCK_SIZE=64, seq_lengths=(250, 380), compute_q_blocks=False
    )
    pattern = BlockPattern.from_block_mask(mask)
    assert torch.equal(pattern.to_bool(), flags)
    assert (pattern.block, pattern.q_length, pattern.kv_length) == (64, 250, 380)


def test_from_block_mask_counts_whole_blocks_of_a_mask_mod():
    def spans(b, h, q, k):
        return (q // 64 + k // 64 + h) % 2 == 0

    mask = create_block_mask(spans, 1, 2, 256, 320, device="cpu", BLOCK_SIZE=64)
    i, j = torch.arange(4)[:, None], torch.arange(5)
    want = torch.stack([(i + j + h) % 2 == 0 for h in range(2)])[None]
    assert torch.equal(BlockPattern.from_block_mask(mask).to_bool(), want)

    mask = create_block_mask(lambda b, h, q, k: k <= q, 1, 1, 256, 256, device="cpu", BLOCK_SIZE=64)
    with pytest.raises(ValueError, match="expected whole blocks only, got 4 partial ones"):
        BlockPattern.from_block_mask(mask)
    mask = create_block_mask(spans, 1, 1, 256, 256, device="cpu", BLOCK_SIZE=(64, 128))
    with pytest.raises(ValueError, match="expected square blocks, got 64 x 128"):
        BlockPattern.from_block_mask(mask)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("sink", "window"), [(0, 1), (4, 0), (1, 70), (33, 32), (0, 33), (64, 65)])
def test_sink_and_window_selects_the_blocks_that_hold_such_keys(sink, window, causal):
    for q_length, kv_length in ((200, 200), (1, 130), (70, 131), (96, 192)):
        pattern = BlockPattern.sink_and_window(
            q_length, kv_length, sink=sink, window=window, block=32, causal=causal
        )
        q = torch.arange(q_length)[:, None] + kv_length - q_length
        k = torch.arange(kv_length)
        asked = (k < sink) | ((q - k).abs() < window)
        if causal:
            asked &= k <= q
        padded = torch.zeros(pattern.q_blocks * 32, pattern.kv_blocks * 32, dtype=torch.bool)
        padded[:q_length, :kv_length] = asked
        want = padded.unflatten(1, (-1, 32)).unflatten(0, (-1, 32)).any(3).any(1)
        assert torch.equal(pattern.to_bool()[0, 0], want), (q_length, kv_length)
        assert tokens(pattern)[asked].all()


@pytest.mark.parametrize("span", [64, 128, 192])
def test_block_causal_is_exact(span):
    for q_length, kv_length in ((500, 500), (100, 420), (64, 64)):
        pattern = BlockPattern.block_causal(q_length, kv_length, block=64, span=span)
        q = torch.arange(q_length)[:, None] + kv_length - q_length
        k = torch.arange(kv_length)
        assert torch.equal(tokens(pattern), k // span <= q // span)


def test_dense_and_empty_lengths():
    pattern = BlockPattern.dense(130, 70, block=64)
    assert pattern.to_bool().shape == (1, 1, 3, 2) and pattern.density == 1.0
    empty = BlockPattern.dense(0, 70, block=64)
    assert empty.bits.shape == (1, 1, 0, 1) and empty.density == 0.0
    assert BlockPattern.dense(5, 0).bits.shape == (1, 1, 1, 0)
