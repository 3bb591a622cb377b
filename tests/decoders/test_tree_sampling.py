"""Sampling with trees: the text of plain sampling, or its distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tokenburst as tb
from guesses import RandomDrafter, TableDrafter
from tiny import VOCAB, prompts, tiny_model
from tokenburst import zoo
from toys import small_model, text_law

EXACT = [torch.float32, torch.bfloat16]
WARM = {"temperature": 0.6, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3}


def sample(model, drafter, ids, mask=None, **options):
    options = {"max_new_tokens": 16, "seed": 5, **options}
    return tb.TreeDecoder(model, drafter).generate(ids, mask, **options)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_walk_writes_the_text_of_plain_sampling(family, dtype):
    model = tiny_model(family, dtype)
    ids, mask = prompts(3, 14, 2, ragged=True)
    for options in ({"temperature": 0.5}, WARM, {"repetition_penalty": 1.5}):
        want = sample(model, None, ids, mask, **options)
        for drafter in (tb.TokenRecycling("4x2x1"), RandomDrafter(9, VOCAB)):
            got = sample(model, drafter, ids, mask, **options)
            assert torch.equal(got.sequences, want.sequences)
            assert got.stats.forwards <= want.stats.forwards
    drawn = [sample(model, None, ids, mask, **WARM, seed=seed).sequences for seed in (1, 2)]
    assert not torch.equal(*drawn)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(EXACT))
def test_any_tree_any_batch(nodes, seed, batch, dtype):
    model = tiny_model("llama", dtype)
    ids, mask = prompts(batch, 9, seed, ragged=True)
    heat = torch.linspace(0, 1, batch)  # greedy rows among the others
    options = {"temperature": heat, "seed": seed, "max_new_tokens": 10}
    want = sample(model, None, ids, mask, **options).sequences
    got = sample(model, RandomDrafter(nodes, VOCAB, seed), ids, mask, **options).sequences
    assert torch.equal(got, want)
    for row in range(batch):  # its name brings a row its tokens again
        alone = {**options, "temperature": float(heat[row]), "sequence_ids": [row]}
        alone = sample(model, None, ids[row, mask[row] != 0][None], **alone).sequences
        assert torch.equal(alone[0, int(mask[row].sum()) :], got[row, 9:])


def test_built_in_model_any_threads():
    model = AutoModelForCausalLM.from_pretrained(zoo.path("pycode"))
    ids = torch.randint(1, 200, (2, 24))
    options = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 16}
    want, before = sample(model, None, ids, **options), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            got = sample(model, tb.TokenRecycling("4x2x1"), ids, **options)
            assert torch.equal(got.sequences, want.sequences)
    finally:
        torch.set_num_threads(before)


def test_every_row_has_its_own_parameters():
    model = tiny_model("llama", torch.float32)
    ids, _ = prompts(1, 8, 3)
    ids = ids.expand(4, -1)
    each = {
        "temperature": [0.0, 0.7, 1.0, 2.0],
        "top_k": torch.tensor([0, 5, 0, 2]),
        "top_p": [1.0, 0.8, 1.0, 1.0],
        "repetition_penalty": [1.0, 1.0, 1.4, 1.0],
        "seed": [1, 2, 3, 4],
        "max_new_tokens": [12, 5, 0, 9],
    }
    got = sample(model, RandomDrafter(6, VOCAB), ids, **each, pad_token_id=0)
    assert got.stats.new_tokens == [12, 5, 0, 9]
    for row in range(4):
        mine = {name: values[row] for name, values in each.items()}
        alone = sample(model, None, ids[:1], **mine, sequence_ids=[row]).sequences[0, 8:]
        assert torch.equal(got.sequences[row, 8 : 8 + len(alone)], alone)


SCHEMES = {
    "walk, random trees": lambda q: RandomDrafter(6, 4),
    "rrs": lambda q: TableDrafter(q, (2, 2), "rrs"),
    "rrs_wr": lambda q: TableDrafter(q, (2, 1), "rrs_wr", replacement=True),
    "kseq": lambda q: TableDrafter(q, (3,), "kseq", replacement=True),
    "block": lambda q: TableDrafter(q, (1, 1, 1), "block"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_distribution_of_whole_generations(scheme):
    vocab, length, heat, trials, chunk = 4, 3, 4.0, 100_000, 20_000
    model, prompt = small_model(vocab), torch.tensor([[1, 0, 2]])
    drafter = SCHEMES[scheme](torch.randn(vocab, vocab))
    decoder, counts = tb.TreeDecoder(model, drafter), torch.zeros(vocab**length)
    for begin in range(0, trials, chunk):
        out = decoder.generate(
            prompt.expand(chunk, -1),
            max_new_tokens=length,
            temperature=heat,
            seed=17,
            sequence_ids=torch.arange(begin, begin + chunk),
        )
        number = out.sequences[:, 3:] @ torch.tensor([16, 4, 1])
        counts += torch.bincount(number, minlength=vocab**length)
    expected = trials * text_law(model, prompt, length, vocab, heat)
    assert expected.min() > 5
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    dof = vocab**length - 1
    assert chi2 < dof + 4.5 * (2 * dof) ** 0.5, chi2
    assert out.stats.accepted_by_depth[0] > 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected numbers >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected numbers >= 0, got nan"),
        ({"temperature": [1.0, 1.0]}, r"temperature: expected one value or 3, got shape \(2,\)"),
        ({"top_k": -3}, "top_k: expected integers >= 0"),
        ({"top_k": 2.5}, "top_k: expected integers >= 0"),
        ({"top_p": 1.5}, r"top_p: expected numbers in 0..1 \(1 = off\), got 1.5"),
        ({"min_p": -0.1}, "min_p: expected numbers in 0..1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: expected numbers > 0"),
        ({"seed": 0.5}, "seed: expected integers, got"),
        ({"verify": "exact"}, "verify: expected one of walk, rrs, .*lossy_typical"),
    ],
)
def test_refused(options, message):
    ids, _ = prompts(3, 6, 0)
    with pytest.raises(ValueError, match=message):
        tb.TreeDecoder(tiny_model("llama", torch.float32)).generate(ids, **options)


def test_logits_without_numbers():
    model = small_model(4)
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="expected logits that are numbers"):
        sample(model, None, torch.tensor([[1, 2]]), temperature=1.0)


def test_lossy_modes_say_so_and_run():
    model, ids = tiny_model("llama", torch.float32), prompts(2, 8, 1)[0]
    for mode in ("lossy_typical", "lossy_grouped"):
        out = sample(model, RandomDrafter(8, VOCAB), ids, temperature=1.0, verify=mode)
        assert out.stats.new_tokens == [16, 16]
