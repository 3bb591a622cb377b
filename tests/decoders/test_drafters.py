"""Every drafter writes the text of plain decoding, for any batch and dtype."""

import copy

import pytest
import torch

import tokenburst as tb
from tiny import prompts, tiny_model

EXACT = [torch.float32, torch.bfloat16]


def draft_model(shape, dtype=torch.float32):
    """The target with noise on its weights: right often, not always."""
    model = copy.deepcopy(tiny_model("llama", dtype))
    g = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data += (0.02 * torch.randn(p.shape, generator=g)).to(dtype)
    return tb.DraftModel(model, shape)


TREE = tb.TreeTemplate((-1, 0, 1, 0, 1, 3, 2), (0, 0, 0, 1, 1, 0, 0))
MAKE = {
    "chain": lambda: draft_model(tb.Chain(4)),
    "branching": lambda: draft_model(tb.Branching((3, 2, 1))),
    "template": lambda: draft_model(TREE),
    "sequoia": lambda: draft_model(tb.sequoia_tree((0.6, 0.2, 0.1), 12, 3)),
    "independent": lambda: draft_model(tb.Independent(3, 3)),
    "beam": lambda: draft_model(tb.StochasticBeam(3, 4)),
    "dyspec": lambda: draft_model(tb.DySpec(9, depth=4, width=3, siblings=3)),
    "dyspec-threshold": lambda: draft_model(tb.DySpec(9, depth=3, threshold=0.05)),
    "stand": lambda: tb.Stand("4x2x1", slots=4096),
    "stand-short": lambda: tb.Stand(TREE, most=2, least=1, candidates=4),
    "merged": lambda: tb.Merged([tb.TokenRecycling("4x2x1"), tb.PromptLookup(5)]),
    "merged-models": lambda: tb.Merged(
        [draft_model(tb.Branching((2, 1))), tb.PromptLookup(6), draft_model(tb.Chain(3))]
    ),
    "lookup": lambda: tb.PromptLookup(5),
    "lookup-official": lambda: tb.PromptLookup(3, "official"),
    "lookup-latest": lambda: tb.PromptLookup(7, "transformers", latest=True),
}


def test_a_perfect_draft_model_is_always_right():
    model = tiny_model("llama", torch.float32)
    ids, mask = prompts(3, 11, 4, ragged=True)
    for shape in (tb.Chain(3), tb.Branching((2, 2, 1)), tb.Independent(2, 3)):
        decoder = tb.TreeDecoder(model, tb.DraftModel(model, shape))
        assert decoder.generate(ids, mask, max_new_tokens=17).stats.forwards == 5  # 1 + 4 * 4


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
