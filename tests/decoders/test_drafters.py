"""Every drafter writes the text of plain decoding, for any batch and dtype."""

import pytest
import torch

import tokenburst as tb
from tiny import prompts, tiny_model

EXACT = [torch.float32, torch.bfloat16]
MAKE = {
    "lookup": lambda: tb.PromptLookup(5),
    "lookup-official": lambda: tb.PromptLookup(3, "official"),
    "lookup-latest": lambda: tb.PromptLookup(7, "transformers", latest=True),
}


def repetitive(batch, length, seed):
    """Ragged prompts in which phrases come again."""
    ids, mask = prompts(batch, length, seed, ragged=True)
    third = length // 3
    ids[:, -third:] = ids[:, third : 2 * third]
    return ids, mask


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", MAKE)
def test_greedy_text_is_that_of_plain_decoding(name, batch, dtype):
    model = tiny_model("llama", dtype)
    ids, mask = repetitive(batch, 18, 5)
    want = tb.TreeDecoder(model).generate(ids, mask, max_new_tokens=24)
    got = tb.TreeDecoder(model, MAKE[name]()).generate(ids, mask, max_new_tokens=24)
    assert torch.equal(got.sequences, want.sequences)
    assert got.stats.forwards <= want.stats.forwards


@pytest.mark.parametrize("name", MAKE)
def test_a_drafter_is_used_again(name):
    model = tiny_model("llama", torch.float32)
    decoder = tb.TreeDecoder(model, MAKE[name]())
    for batch, seed in ((2, 1), (3, 2), (1, 3)):
        ids, mask = repetitive(batch, 15, seed)
        want = tb.TreeDecoder(model).generate(ids, mask, max_new_tokens=9, eos_token_id=7)
        got = decoder.generate(ids, mask, max_new_tokens=9, eos_token_id=7)
        assert torch.equal(got.sequences, want.sequences)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.PromptLookup(semantics="hf"), "semantics: expected one of official, tr"),
        (lambda: tb.PromptLookup(0), "k: expected >= 1, got 0"),
        (lambda: tb.PromptLookup(most=1, least=2), "expected 1 <= least <= most, got 2 and 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
