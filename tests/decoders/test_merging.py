"""Merged drafters: one tree without duplicates, each drafter fed as if it were alone."""

import pytest
import torch

import tokenburst as tb
from guesses import RandomDrafter, TableDrafter
from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.drafting import Drafter


def perfect(shape, **options):
    return tb.DraftModel(tiny_model("llama", torch.float32), shape, **options)


class Watched(Drafter):
    """Another drafter, and what it drafted and was shown."""

    def __init__(self, inner):
        self.inner, self.drafts, self.seen = inner, [], []
        self.candidates, self.verification = inner.candidates, inner.verification
        self.draws = inner.draws

    def __getattr__(self, name):
        return getattr(self.inner, name)

    most_nodes = property(lambda self: self.inner.most_nodes)
    most_depth = property(lambda self: self.inner.most_depth)
    exact_modes = property(lambda self: self.inner.exact_modes)

    def bind(self, vocab_size, device):
        self.inner.bind(vocab_size, device)

    def begin(self, state, choose_tree):
        self.inner.begin(state, choose_tree)

    def draft(self, state):
        self.drafts.append(self.inner.draft(state).padded())
        return self.drafts[-1]

    def observe(self, state, seen):
        self.seen.append(seen)
        self.inner.observe(state, seen)

    def keep(self, rows):
        self.inner.keep(rows)


def test_a_draft_model_is_right_after_text_of_others():
    # It has the target's own weights: if it ever misread the text, its guesses would fail.
    ids, mask = prompts(3, 11, 4, ragged=True)
    model, shape = tiny_model("llama", torch.float32), tb.Chain(3)
    for others in (
        [RandomDrafter(6, VOCAB)],
        [perfect(tb.Chain(5))],
        [perfect(tb.Branching((2, 2)))],
    ):
        merged = tb.Merged([*others, perfect(shape)])
        out = tb.TreeDecoder(model, merged).generate(ids, mask, max_new_tokens=25)
        longest = max(
            d.most_depth for d in (perfect(shape), *others) if isinstance(d, tb.DraftModel)
        )
        assert out.stats.forwards == 1 + -(-24 // (longest + 1))


def test_each_drafter_is_shown_its_own_tree():
    inner = [
        Watched(tb.TokenRecycling("4x2x1", prefill=False)),
        Watched(RandomDrafter(9, VOCAB, 3)),
    ]
    for w in inner:
        w.candidates = 8
        w.inner.candidates = 8
    merged = Watched(tb.Merged(inner))
    model = tiny_model("llama", torch.float32)
    ids, mask = prompts(4, 10, 2, ragged=True)
    tb.TreeDecoder(model, merged).generate(ids, mask, max_new_tokens=14, temperature=0.3)
    for step, (draft, seen) in enumerate(zip(merged.drafts, merged.seen, strict=True)):
        text = path_texts(draft)
        for one in inner:
            mine, view = one.drafts[step], one.seen[step]
            assert torch.equal(view.tokens, mine.tokens) and view.tree is mine.tree
            for b, own in enumerate(path_texts(mine)):
                if seen.count[b] == 0:
                    assert view.count[b] == 0
                    continue
                where = {t: node for node, t in text[b].items() if draft.tokens[b, node] >= 0}
                for node, words in own.items():
                    assert torch.equal(view.ids[b, node], seen.ids[b, where[words]])
                path = [n for n in view.path[b].tolist() if n >= 0]
                reached = [own[n] for n in path]
                full = [text[b][n] for n in seen.path[b].tolist() if n >= 0]
                assert reached == [t for t in full if t in own.values()]
                following = [*(t[-1] for t in full[1:]), int(seen.next_token[b])]
                assert int(view.n_accepted[b]) == len(path) >= 1
                assert int(view.next_token[b]) == following[len(path) - 1]


def path_texts(draft):
    """Of each row: the tokens from the root down to each node that is one."""
    every = []
    for tokens, parents, count in zip(
        draft.tokens.tolist(), draft.tree.parents.tolist(), draft.tree.count.tolist(), strict=True
    ):
        known = {0: ()}
        for i in range(1, count):
            if tokens[i] >= 0 and parents[i] in known:
                known[i] = (*known[parents[i]], tokens[i])
        every.append(known)
    return every


def test_siblings_differ_and_nothing_is_lost():
    q = torch.zeros(VOCAB, VOCAB).index_fill(1, torch.arange(4, VOCAB), -9.0)
    inner = [Watched(TableDrafter(q, (3, 2), "rrs")), Watched(TableDrafter(q, (2, 2, 1), "rrs"))]
    for w in inner:
        w.draws = "table"
    merged = Watched(tb.Merged(inner))
    assert merged.verification == "rrs"
    ids, _ = prompts(5, 7, 2)
    tb.TreeDecoder(tiny_model("llama", torch.float32), merged).generate(
        ids, max_new_tokens=9, temperature=1.0
    )
    shared = 0
    for step, draft in enumerate(merged.drafts):
        parts = [path_texts(w.drafts[step]) for w in inner]
        for b, text in enumerate(path_texts(draft)):
            every = [t for part in parts for t in part[b].values()]
            assert sorted(text.values()) == sorted(set(every))
            shared += len(every) - len(set(every)) - 1
    assert shared > 20  # there was something to merge


@pytest.mark.parametrize(
    ("make", "modes"),
    [
        (lambda: [tb.TokenRecycling("2.2.2"), tb.PromptLookup(4)], ("walk", "walk", "rrs")),
        (lambda: [perfect(tb.Chain(2)), tb.PromptLookup(4)], ("rrs", "walk", "rrs")),
        (lambda: [perfect(tb.Chain(2)), perfect(tb.DySpec(5))], ("rrs", "walk", "rrs")),
        (lambda: [perfect(tb.Chain(2)), perfect(tb.Chain(3), temperature=2.0)], ("walk", "walk")),
        (lambda: [perfect(tb.Chain(2)), tb.Stand("chain-4")], ("walk", "walk")),
        (lambda: [perfect(tb.Independent(2, 2)), tb.PromptLookup(4)], ("rrs", "walk", "rrs")),
    ],
)
def test_modes(make, modes):
    merged = tb.Merged(make())
    assert (merged.verification, *merged.exact_modes) == modes
    decoder = tb.TreeDecoder(tiny_model("llama", torch.float32), merged)
    with pytest.raises(ValueError, match="which are exact for what Merged drafts, got 'kseq'"):
        decoder.generate(prompts(1, 5, 1)[0], temperature=1.0, verify="kseq")


@pytest.mark.parametrize(
    ("drafters", "message"),
    [
        ([], "expected two or more, each once, got none"),
        ([tb.PromptLookup(2)], "expected two or more, each once, got PromptLookup"),
        (
            [tb.PromptLookup(2)] * 2,
            "expected two or more, each once, got PromptLookup, PromptLookup",
        ),
        ([tb.PromptLookup(2), tb.TokenRecycling()], "expected a tree for TokenRecycling, got 'au"),
    ],
)
def test_refusals(drafters, message):
    with pytest.raises(ValueError, match="Merged: drafters: " + message):
        tb.Merged(drafters)


@pytest.mark.parametrize(
    ("shape", "mode", "exact"),
    [
        (tb.Independent(2, 2), "block", "walk, rrs, rrs_wr, kseq"),
        (tb.Branching((2, 2)), "rrs_wr", "walk, rrs"),
        (tb.DySpec(4), "kseq", "walk, rrs"),
    ],
)
def test_a_mode_that_would_be_biased_is_refused(shape, mode, exact):
    decoder = tb.TreeDecoder(tiny_model("llama", torch.float32), perfect(shape))
    with pytest.raises(ValueError, match=f"expected one of {exact}, which are exact for"):
        decoder.generate(prompts(1, 5, 1)[0], temperature=1.0, verify=mode)
