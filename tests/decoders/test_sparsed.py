"""SparseD inside the diffusion decoder: when it is dense, what it keeps, and what it refuses."""

import pytest
import torch

import tokenburst as tb
from tiny import VOCAB, prompts, tiny_model
from tokenburst import ref
from tokenburst.decoders.sparsedrun import SparsedRun
from tokenburst.patterns import unpack_bits

MASK = VOCAB - 1


def decoder(model, attention, policy=None):
    policy = policy or tb.LowConfidence(tokens_per_step=4)
    return tb.DiffusionDecoder(model, policy, attention=attention, mask_id=MASK)


def model_of(family="llama", dtype=torch.float32):
    return tiny_model(family, dtype, is_causal=False)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeping_all_equals_dense(family, dtype):
    ids, mask = prompts(3, 90, seed=1, ragged=True)
    model, options = model_of(family, dtype), {"gen_length": 64, "block_length": 32}
    dense = decoder(model, None).generate(ids, mask, **options)
    every = decoder(model, tb.SparseD(1.0, 0.1, 32)).generate(ids, mask, **options)
    if dtype == torch.float32:  # in bfloat16 a random model follows every rounding elsewhere
        assert torch.equal(dense.sequences, every.sequences)
    assert not (every.sequences[:, -64:] == MASK).any()
    assert dense.stats.sparse is None and every.stats.sparse.density == 1


def test_steps_are_counted_over_all_blocks():
    """T = 4 blocks x 8 steps, E = int(32 * 0.2) + 1 = 7: steps 0 .. 7 are dense, 24 sparse."""
    ids, _ = prompts(2, 40, seed=2)
    out = decoder(model_of(), tb.SparseD(0.3, 0.2, 32)).generate(
        ids, gen_length=128, block_length=32
    )
    assert out.stats.forwards == 32 and out.stats.sparse.forwards == 24


def test_steps_tells_where_a_policy_ends_early():
    ids, _ = prompts(1, 40, seed=2)
    dense = []
    for steps in (None, 10):
        attention = tb.SparseD(0.3, 0.5, 32, steps=steps)
        out = decoder(model_of(), attention, tb.Threshold(0.99)).generate(ids, gen_length=48)
        dense.append(out.stats.forwards - out.stats.sparse.forwards)
    assert dense == [26, 7]  # E = int(48 * 0.5) + 1, int(10 * 0.5) + 1


def test_never_sparse_equals_dense():
    ids, mask = prompts(2, 50, seed=3, ragged=True)
    dense = decoder(model_of(), None).generate(ids, mask, gen_length=32)
    late = decoder(model_of(), tb.SparseD(0.1, 1.0, 32)).generate(ids, mask, gen_length=32)
    assert torch.equal(dense.sequences, late.sequences)
    assert late.stats.sparse == tb.SparseStats(nbytes=0, density=0.0, forwards=0)


def test_a_row_alone_equals_the_row_in_a_batch():
    """Rows of different lengths turn sparse in different steps, and never move each other."""
    ids, mask = prompts(3, 100, seed=4, ragged=True)
    attention = tb.SparseD(0.2, 0.2, 32)
    lengths = torch.tensor([96, 32, 64])
    together = decoder(model_of(), attention).generate(
        ids, mask, gen_length=lengths, block_length=32
    )
    for row in range(3):
        n = int(lengths[row])
        alone = decoder(model_of(), attention).generate(
            ids[row : row + 1], mask[row : row + 1], gen_length=n, block_length=32
        )
        want = together.sequences[row, : ids.shape[1] + n]
        assert torch.equal(alone.sequences[0], want), row


def test_sparse_differs_and_reports_its_patterns():
    ids, _ = prompts(2, 130, seed=5)
    model = model_of()
    dense = decoder(model, None).generate(ids, gen_length=64)
    sparse = decoder(model, tb.SparseD(0.1, 0.0, 32)).generate(ids, gen_length=64)
    assert not torch.equal(dense.sequences, sparse.sequences)
    n = 7  # blocks of 130 + 64 tokens
    assert sparse.stats.sparse.nbytes == 3 * 2 * 4 * n * 4  # layers, rows, heads, blocks, a word
    assert 1 / n < sparse.stats.sparse.density < 0.5


def test_guided_rows_have_patterns_of_their_own():
    ids, mask = prompts(2, 90, seed=7, ragged=True)
    options = {"gen_length": torch.tensor([64, 32]), "block_length": 32, "guidance": 0.5}
    model = model_of()
    dense = decoder(model, None).generate(ids, mask, **options)
    every = decoder(model, tb.SparseD(1.0, 0.1, 32)).generate(ids, mask, **options)
    assert torch.equal(dense.sequences, every.sequences)
    assert every.stats.sparse.nbytes == 3 * 4 * 4 * 5 * 4  # layers, rows, heads, blocks, a word


def test_infill_takes_the_first_mask_as_the_end_of_the_prompt():
    ids, _ = prompts(2, 120, seed=6)
    ids[0, 70:90], ids[1, 40::5] = MASK, MASK
    out = decoder(model_of(), tb.SparseD(0.3, 0.1, 32)).infill(ids)
    assert not (out.sequences == MASK).any() and out.stats.sparse.forwards > 0


@pytest.mark.parametrize(("wanted", "scale"), [("attention", 0.25), ("llada", 0.5), (2.0, 2.0)])
def test_the_pattern_is_the_reference_of_the_scale_asked_for(wanted, scale):
    q, k = torch.randn(2, 4, 200, 16), torch.randn(2, 2, 200, 16)
    count, prompt = torch.tensor([200, 150]), torch.tensor([120, 64])
    run = SparsedRun(prompt, [0, 0], block=32, keep=0.3, pattern_scale=wanted)
    run.begin(2)
    run.attend(0, q, k, k, count, 0.25)
    parts = {"prompt_len": prompt, "kv_len": count}
    masses = ref.sparsed.attn_block_mass(q, k, 32, scale=scale, **parts)
    want = ref.sparsed.attn_select_blocks(*masses, 200, 32, 0.3, **parts)
    assert torch.equal(unpack_bits(run.bits[0], 7), unpack_bits(want, 7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 1.1}, "keep: expected a share from 0 to 1, got 1.1"),
        ({"skip": -0.1}, "skip: expected a share"),
        ({"block": 16}, r"block: expected one of \(32, 64, 128\), got 16"),
        ({"pattern_scale": "dream"}, "pattern_scale: expected attention, llada or a number"),
        ({"pattern_scale": 0.0}, "pattern_scale: .* > 0, got 0.0"),
        ({"steps": 0}, "steps: expected None or at least 1, got 0"),
    ],
)
def test_refuses_parameters(change, message):
    with pytest.raises(ValueError, match="SparseD: " + message):
        tb.SparseD(**change)


def test_refuses_a_block_causal_model(monkeypatch):
    model = model_of()  # others use it too
    for name, value in {"block_causal": True, "block_length": 8}.items():
        monkeypatch.setattr(model.config, name, value, raising=False)
    with pytest.raises(ValueError, match=r"SparseD.* does not go with a block-causal model: later"):
        tb.DiffusionDecoder(model, attention=tb.SparseD(), mask_id=MASK)
