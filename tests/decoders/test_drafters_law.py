"""Sampling with every drafter has the target's own law over whole texts, by enumeration."""

import copy
from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tokenburst as tb
from toys import chi2

VOCAB, NEW, TRIALS = 3, 4, 5000
PROMPT = torch.tensor([[2, 0, 1, 2, 0, 1, 2]])


@cache
def models():
    """A target over three tokens, and a draft model that is wrong about them."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.6,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(4)
    target = LlamaForCausalLM(config).eval()
    draft = copy.deepcopy(target)
    for p in draft.parameters():
        p.data += 0.3 * torch.randn(p.shape)
    return target, draft


@cache
def exact(temperature):
    """Probability of each of the VOCAB ** NEW texts."""
    texts = torch.cartesian_prod(*[torch.arange(VOCAB)] * NEW)
    ids = torch.cat([PROMPT.expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        logits = models()[0](ids).logits[:, PROMPT.shape[1] - 1 : -1]
    chance = (logits / temperature).log_softmax(-1).gather(2, texts[:, :, None])
    return chance.sum((1, 2)).exp()


TREE = tb.TreeTemplate((-1, 0, 0, 1, 3), (0, 0, 1, 0, 0))


def drafting(shape, **options):
    return lambda: tb.DraftModel(models()[1], shape, **options)


MAKE = {
    "chain": drafting(tb.Chain(2)),
    "chain-hot": drafting(tb.Chain(2), temperature=1.7),
    "chain-cut": drafting(tb.Chain(3), top_k=2),
    "branching-nucleus": drafting(tb.Branching((2, 2)), top_p=0.8),
    "branching": drafting(tb.Branching((2, 1, 1))),
    "beam": drafting(tb.StochasticBeam(2, 3)),
    "kseq": drafting(tb.Independent(3, 2)),
    "multi-step": drafting(tb.Independent(2, 3, "rrs_wr")),
    "dyspec": drafting(tb.DySpec(5, depth=3, width=2, siblings=2)),
    "dyspec-threshold": drafting(tb.DySpec(6, depth=2, threshold=0.1)),
    "merged": lambda: tb.Merged([drafting(tb.Branching((2, 1)))(), tb.PromptLookup(3)]),
    "merged-models": lambda: tb.Merged(
        [
            drafting(tb.Chain(2))(),
            drafting(tb.Branching((2, 2)))(),
            tb.TokenRecycling(TREE, candidates=3),
        ]
    ),
    "merged-tables": lambda: tb.Merged(
        [tb.Stand(TREE, candidates=3), tb.Stand("chain-4", candidates=2, most=1, least=1)]
    ),
    "merged-independent": lambda: tb.Merged([drafting(tb.Independent(2, 2))(), tb.PromptLookup(3)]),
    "lookup": lambda: tb.PromptLookup(3),
    "stand": lambda: tb.Stand(TREE, candidates=3),
}


@pytest.mark.parametrize("name", MAKE)
def test_whole_texts(name):
    temperature = 0.7
    drafter = MAKE[name]()
    decoder = tb.TreeDecoder(models()[0], drafter)
    ids = PROMPT.expand(TRIALS, -1)
    options = {"max_new_tokens": NEW, "temperature": temperature, "seed": 5}
    if name in ("stand", "merged-tables"):  # the table is learned from other rows first
        decoder.generate(ids[:50], seed=1, max_new_tokens=NEW, temperature=1.0)
    new = decoder.generate(ids, **options).sequences[:, PROMPT.shape[1] :]
    text = (new * VOCAB ** torch.arange(NEW - 1, -1, -1)).sum(1)
    assert chi2(text, exact(temperature)) < 1


def test_a_row_does_not_depend_on_its_batch():
    ids = PROMPT.expand(9, -1)
    for make in (MAKE["beam"], MAKE["dyspec"], MAKE["kseq"], MAKE["branching"]):
        decoder = tb.TreeDecoder(models()[0], make())
        options = {"max_new_tokens": 12, "seed": 3}
        heat = torch.tensor([1.0, 0.0, 0.5] * 3)
        every = decoder.generate(ids, temperature=heat, **options).sequences
        for row in (0, 1, 5):
            alone = decoder.generate(
                ids[:1], temperature=heat[row : row + 1], sequence_ids=[row], **options
            )
            assert torch.equal(alone.sequences[0], every[row])
