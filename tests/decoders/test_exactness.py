"""Any drafter, any tree, any prompts, any batch, both dtypes: the text of plain greedy decoding."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenburst as tb
from tiny import prompts, tiny_model
from tokenburst import zoo

EXACT = [torch.float32, torch.bfloat16]
SEMANTICS = st.sampled_from(["official", "transformers", "vllm"])


@cache
def noisy(dtype):
    """The target with noise on its weights: right often, not always."""
    model = copy.deepcopy(tiny_model("llama", dtype))
    g = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data += (0.02 * torch.randn(p.shape, generator=g)).to(dtype)
    return model


@st.composite
def trees(draw, most=24):
    """Any topological tree whose siblings have different ranks below 4."""
    parent, rank, taken = [-1], [0], {}
    for node in range(1, draw(st.integers(1, most))):
        above = draw(st.integers(0, node - 1))
        if taken.get(above, 0) < 4:
            parent.append(above)
            rank.append(taken.get(above, 0))
            taken[above] = rank[-1] + 1
        else:
            parent.append(node - 1)
            rank.append(0)
            taken[node - 1] = 1
    return tb.TreeTemplate(tuple(parent), tuple(rank))


@st.composite
def shapes(draw):
    """What a draft model may draw."""
    n = st.integers(1, 3)
    return draw(
        st.one_of(
            trees(12).map(tb.StaticTree),
            st.integers(1, 5).map(tb.Chain),
            st.lists(n, min_size=1, max_size=3).map(tb.Branching),
            st.builds(tb.Independent, n, n),
            st.builds(tb.StochasticBeam, n, n),
            st.builds(tb.DySpec, st.integers(1, 9), n, n, n, st.sampled_from([0.0, 0.05])),
        )
    )


def drafters(dtype, merged=True):
    one = st.one_of(
        st.builds(tb.TokenRecycling, trees(), prefill=st.booleans()),
        st.builds(tb.PromptLookup, st.integers(1, 7), SEMANTICS, latest=st.booleans()),
        st.builds(tb.Stand, trees(), slots=st.sampled_from([8, 512]), prefill=st.booleans()),
        shapes().map(lambda shape: tb.DraftModel(noisy(dtype), shape)),
    )
    if not merged:
        return one
    return one | st.lists(drafters(dtype, False), min_size=2, max_size=3).map(tb.Merged)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_greedy_text_is_that_of_plain_decoding(data):
    dtype = data.draw(st.sampled_from(EXACT), "dtype")
    batch, seed = data.draw(st.integers(1, 3), "batch"), data.draw(st.integers(0, 999), "seed")
    model, drafter = tiny_model("llama", dtype), data.draw(drafters(dtype), "drafter")
    ids, mask = prompts(batch, 12, seed, ragged=True)
    ids[:, -3:] = ids[:, -6:-3]  # something to look up
    limits = data.draw(st.lists(st.integers(0, 12), min_size=batch, max_size=batch), "limits")
    options = {"max_new_tokens": limits, "pad_token_id": 63}
    want = tb.TreeDecoder(model).generate(ids, mask, **options).sequences
    assert torch.equal(
        tb.TreeDecoder(model, drafter).generate(ids, mask, **options).sequences, want
    )
    # The same rows among others, in another order, by a drafter that has learned meanwhile.
    order = torch.tensor(data.draw(st.permutations(range(batch)), "order"))[: max(1, batch - 1)]
    options["max_new_tokens"] = [limits[i] for i in order]
    again = tb.TreeDecoder(model, drafter).generate(ids[order], mask[order], **options).sequences
    width = min(again.shape[1], want.shape[1])
    assert torch.equal(again[:, :width], want[order, :width])


@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_any_number_of_threads(heat):
    model, small = zoo.load("pycode"), zoo.draft("pycode")
    ids = zoo.tokenizer("pycode")(zoo.prompts()[0]["text"], return_tensors="pt")["input_ids"]
    ids = ids[:, :40].repeat(2, 1)
    texts, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            merged = tb.Merged([tb.DraftModel(small, tb.Branching((2, 1))), tb.PromptLookup(3)])
            for drafter in (merged, tb.Stand("chain-4"), tb.DraftModel(small, tb.DySpec(6))):
                out = tb.TreeDecoder(model, drafter).generate(
                    ids, max_new_tokens=10, temperature=heat, seed=4
                )
                texts.append(out.sequences)
    finally:
        torch.set_num_threads(before)
    for one, two in zip(texts[:3], texts[3:], strict=True):
        assert torch.equal(one, two)
    if heat == 0:
        assert all(torch.equal(text, texts[0]) for text in texts)


def test_stand_from_the_published_tree_of_625_nodes():
    # Twenty levels, 625 nodes, of which acceptance chooses 80.
    counts = [5] + [4] * 5 + [2] * 13 + [1] * 7 + [2] * 5 + [1] * 28
    large = tb.TreeTemplate.from_child_counts(counts + [1, 0] * 5 + [1] * 28 + [1] * 33 * 15)
    assert large.nodes == 625 and max(large.depth) == 20
    model, (ids, mask) = tiny_model("llama", torch.float32), prompts(2, 14, 3, ragged=True)
    recorder = tb.AcceptanceRecorder(tb.Stand(large, slots=1 << 16))
    options = {"max_new_tokens": 24}
    plain = tb.TreeDecoder(model).generate(ids, mask, **options)
    for _ in range(2):  # the second time the table knows the text
        out = tb.TreeDecoder(model, recorder).generate(ids, mask, **options)
        assert torch.equal(out.sequences, plain.sequences)
    assert 2 * out.stats.forwards < plain.stats.forwards and out.stats.tree_nodes == 625
    best = recorder.best(80)
    assert best.nodes == 80
    kept = tb.Stand(best, slots=1 << 16)
    kept._set(*(getattr(recorder.drafter, name) for name in ("key", "count", "ids", "probs")))
    few = tb.TreeDecoder(model, kept).generate(ids, mask, **options)
    assert torch.equal(few.sequences, plain.sequences)
    assert 2 * few.stats.forwards < plain.stats.forwards
