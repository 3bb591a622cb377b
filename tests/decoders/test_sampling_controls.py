"""Whole generations: the test that the right verifiers pass sees every planted defect."""

import pytest
import torch

import tokenburst as tb
from guesses import TableDrafter
from tokenburst import ops
from tokenburst.decoders.drafting import Draft, DraftDistribution
from toys import small_model, text_law

VOCAB, LENGTH, HEAT, TRIALS = 4, 3, 4.0, 30_000
PROMPT = torch.tensor([[1, 0, 2]])
Q = 1.5 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1))


def misfit(drafter, mode=None):
    """Chi-square of whole texts against enumeration, over the limit of the sound schemes."""
    model = small_model(VOCAB)
    out = tb.TreeDecoder(model, drafter).generate(
        PROMPT.expand(TRIALS, -1), max_new_tokens=LENGTH, temperature=HEAT, seed=17, verify=mode
    )
    number = out.sequences[:, 3:] @ torch.tensor([16, 4, 1])
    counts = torch.bincount(number, minlength=VOCAB**LENGTH)
    expected = TRIALS * text_law(model, PROMPT, LENGTH, VOCAB, HEAT)
    freedom = VOCAB**LENGTH - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic / (freedom + 4.5 * (2 * freedom) ** 0.5)


class Sorted(TableDrafter):
    """C1: siblings in the order of their ids, not of their draws."""

    def draft(self, state):
        draft = super().draft(state)
        tokens = draft.tokens.clone()
        tokens[:, 1:] = tokens[:, 1:].sort(1).values
        return draft._replace(tokens=tokens)


class Dropping(TableDrafter):
    """C2: a child is left out after a look at it."""

    def draft(self, state):
        draft = super().draft(state)
        q = Q.softmax(-1)[draft.tokens[:, :1]].gather(2, draft.tokens[:, None])[:, 0]
        unlikely = (q < 0.25) & (torch.arange(draft.tokens.shape[1]) > 0)
        return draft._replace(tokens=draft.tokens.masked_fill(unlikely, -1))


class Certain(TableDrafter):
    """C3: the most probable token, given out as a draw."""

    def draft(self, state):
        draft = super().draft(state)
        best = self.logits[state.root].argmax(-1)
        tokens = torch.stack([state.root, best], 1)
        return Draft(tokens, draft.tree, DraftDistribution(logits=self.logits[tokens]))


class Raw(TableDrafter):
    """C3: drawn from the two most probable tokens, given out as drawn from all."""

    def draft(self, state):
        law = self.logits.masked_fill(self.logits < self.logits.topk(2, -1).values[:, -1:], -1e9)
        own, self.logits = self.logits, law
        draft = super().draft(state)
        self.logits = own
        return draft._replace(q=DraftDistribution(logits=own[draft.tokens]))


class Repeating(TableDrafter):
    """C4: the same random numbers in every step."""

    def draft(self, state):
        state.rng[:, 2] = 0
        return super().draft(state)


DEFECTS = {
    "c1-order": lambda: Sorted(Q, (3,), "rrs"),
    "c2-dropped": lambda: Dropping(Q, (1,), "rrs"),
    "c3-argmax": lambda: Certain(Q, (1,), "rrs"),
    "c3-raw": lambda: Raw(Q, (1,), "rrs"),
    "c4-repeated": lambda: Repeating(Q, (1,), "rrs"),
    "c6-independent": lambda: TableDrafter(Q, (3,), "rrs_wr"),
    "c6-kseq": lambda: TableDrafter(Q, (3,), "kseq"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_seen(defect):
    assert misfit(DEFECTS[defect]()) > 1


@pytest.mark.parametrize("widths", [(3,), (1,), (2, 2)])
@pytest.mark.parametrize("replacement", [False, True])
def test_without_it_nothing_is(widths, replacement):
    # C5: of independent draws the repeats are no attempts, which leaves draws without replacement.
    assert misfit(TableDrafter(Q, widths, "rrs", replacement)) < 1


@pytest.mark.parametrize("mode", ["lossy_typical", "lossy_grouped"])
def test_a_lossy_mode_is_seen(mode):
    assert misfit(TableDrafter(Q, (2,), "rrs"), mode) > 1


def test_unfiltered_bonus_tokens_are_seen(monkeypatch):
    # C7: temperature left out where everything drafted was accepted.
    assert misfit(TableDrafter(Q, (1,), "rrs"), "walk") < 1
    verify = ops.tree_verify_sample

    def careless(tokens, parent, n_nodes, logits, *args, **kwargs):
        logits = logits.clone()
        logits[:, 1:] *= HEAT
        return verify(tokens, parent, n_nodes, logits, *args, **kwargs)

    monkeypatch.setattr(ops, "tree_verify_sample", careless)
    assert misfit(TableDrafter(Q, (1,), "rrs")) > 1


def test_repeated_siblings_are_never_reached():
    # C5: the walk takes the first of equal siblings, whatever hangs below the second.
    class Twice(TableDrafter):
        def draft(self, state):
            draft = super().draft(state)
            return Draft(draft.tokens[:, [0, 1, 1]], draft.tree)

    assert misfit(Twice(Q, (2,), "walk")) < 1


def test_drafters_that_draw_alike_are_seen(monkeypatch):
    # C4: merged drafters have random numbers of their own, nested ones, too.
    def tables(n):
        made = [TableDrafter(Q, (1,), "rrs") for _ in range(n)]
        for drafter in made:
            drafter.draws = "table"
        return made

    nested = tb.Merged([tb.Merged(tables(2)), *tables(1), tb.Merged(tables(2))])
    assert nested.verification == "rrs" and misfit(nested) < 1
    monkeypatch.setattr(tb.Merged, "_views", lambda self, s: ((d, s) for d in self.drafters))
    assert misfit(tb.Merged(tables(4))) > 1
