"""TreeDecoder: the text of plain greedy decoding, whatever the tree, the batch or the dtype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenburst as tb
from tiny import FAMILIES, prompts, tiny_model
from tokenburst.decoders.autotree import SIZES, TreeSizer
from tokenburst.decoders.treetarget import Target

EXACT = [torch.float32, torch.bfloat16]


def plain(model, ids, mask=None, **options):
    return tb.TreeDecoder(model).generate(ids, mask, max_new_tokens=24, **options)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tree", ["2.2.2", "4x2x1", "chain-8"])
def test_recycling_equals_plain(family, dtype, tree):
    model = tiny_model(family, dtype)
    decoder = tb.TreeDecoder(model, tb.TokenRecycling(tree))
    for seed in range(3):
        ids, mask = prompts(1, 17, seed)
        want, got = plain(model, ids, mask), decoder.generate(ids, mask, max_new_tokens=24)
        assert torch.equal(got.sequences, want.sequences)
        assert want.stats.tokens_per_forward == 1.0
        assert got.stats.forwards <= want.stats.forwards


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_ragged_batch_equals_rows_alone(dtype):
    model = tiny_model("llama", dtype)
    ids, mask = prompts(5, 23, 1, ragged=True)
    together = tb.TreeDecoder(model, tb.TokenRecycling("4x2x1")).generate(
        ids, mask, max_new_tokens=24
    )
    batch_plain = plain(model, ids, mask)
    assert torch.equal(together.sequences, batch_plain.sequences)
    for row in range(5):
        alone = plain(model, ids[row, mask[row] != 0][None])
        assert torch.equal(alone.sequences[0, int(mask[row].sum()) :], together.sequences[row, 23:])
    assert torch.equal(together.sequences[:, :23], ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_fp64_free_agreement_with_transformers(family):
    model = tiny_model(family, torch.float32)
    ids, _ = prompts(1, 15, 3)
    want = model.generate(
        ids, do_sample=False, max_new_tokens=24, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(plain(model, ids).sequences, want)


@pytest.mark.parametrize("window", [3, 17])
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_sliding_windows(family, window):
    model = tiny_model(family, torch.float32, window=window)
    options = {"max_new_tokens": 16, "pad_token_id": 63}
    ids, mask = prompts(2, 19, 8, ragged=True)
    got = tb.TreeDecoder(model, tb.TokenRecycling("4x2x1")).generate(ids, mask, **options).sequences
    assert torch.equal(got, tb.TreeDecoder(model).generate(ids, mask, **options).sequences)
    for row, real, ours in zip(ids, mask.bool(), got, strict=True):
        want = model.generate(row[real][None], do_sample=False, **options)
        assert torch.equal(ours[19 - int(real.sum()) :], want[0])
    if window == 3:  # or it would not be a window that was tested
        wide = tb.TreeDecoder(tiny_model(family, torch.float32)).generate(ids, mask, **options)
        assert not torch.equal(got, wide.sequences)


def test_eos_ends_each_sequence_where_plain_decoding_ends_it():
    model = tiny_model("llama", torch.float32)
    ids, mask = prompts(4, 9, 5, ragged=True)
    free = plain(model, ids, mask).sequences[:, 9:]
    eos = int(free[0, 4])
    want = free.clone()
    for row in want:
        hits = (row == eos).nonzero()
        if len(hits):
            row[int(hits[0]) + 1 :] = 63
    for drafter in (None, tb.TokenRecycling("2.2.2")):
        out = tb.TreeDecoder(model, drafter).generate(
            ids, mask, max_new_tokens=24, eos_token_id=eos, pad_token_id=63
        )
        new = out.sequences[:, 9:]
        assert torch.equal(new, want[:, : new.shape[1]])
        assert (want[:, new.shape[1] :] == 63).all()


def test_matrix_is_kept_saved_and_loaded(tmp_path):
    model = tiny_model("llama", torch.float32)
    ids, _ = prompts(1, 20, 7)
    drafter = tb.TokenRecycling("2.2.2")
    decoder = tb.TreeDecoder(model, drafter)
    first = decoder.generate(ids, max_new_tokens=40)
    drafter.save(tmp_path / "adjacency.safetensors")
    again = tb.TokenRecycling.load(tmp_path / "adjacency.safetensors", "2.2.2")
    second = tb.TreeDecoder(model, again).generate(ids, max_new_tokens=40)
    assert torch.equal(first.sequences, second.sequences)
    assert second.stats.forwards < first.stats.forwards  # the same text is known by now


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 3))
def test_any_tree_any_prompt(nodes, seed, batch):
    model = tiny_model("llama", torch.float32)
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (nodes,), generator=g).tolist()
    counts[0] = max(counts[0], 1)
    shape = tb.TreeTemplate.from_child_counts([])
    parent, rank = [-1], [0]
    for node, children in enumerate(counts):
        if node < len(parent):
            parent += [node] * children
            rank += range(children)
    shape = tb.TreeTemplate(tuple(parent), tuple(rank))
    ids, mask = prompts(batch, 12, seed, ragged=True)
    got = tb.TreeDecoder(model, tb.TokenRecycling(shape)).generate(ids, mask, max_new_tokens=12)
    assert torch.equal(
        got.sequences, tb.TreeDecoder(model).generate(ids, mask, max_new_tokens=12).sequences
    )


def test_auto_tree_is_chosen_and_exact():
    model = tiny_model("llama", torch.float32)
    ids, _ = prompts(2, 16, 2)
    out = tb.TreeDecoder(model, tb.TokenRecycling()).generate(ids, max_new_tokens=24)
    assert out.stats.tree_nodes in SIZES
    assert torch.equal(out.sequences, plain(model, ids).sequences)


def test_sizer_prefers_large_trees_only_where_rows_are_free():
    free, linear = TreeSizer(), TreeSizer()
    assert free.choose(8, (1, 10), lambda tree: 1.0).nodes == max(SIZES)
    assert linear.choose(8, (1, 10), lambda tree: float(tree.nodes)).nodes == min(SIZES)


def test_sizer_learns_acceptance():
    sizer, chain = TreeSizer(), tb.TreeTemplate.chain(2)
    sizer.learn(chain, torch.tensor([[0, 1, 2]] * 1000))
    assert sizer.acceptance(8)[0] > 0.95


def test_best_first_tree_matches_published_values():
    # Expected sizes of the best trees for acceptance (.6, .2, .1), unlimited depth.
    published = {2: 1.6, 3: 1.96, 4: 2.176, 5: 2.376, 6: 2.5056, 8: 2.7456}
    for nodes, value in published.items():
        tree = tb.TreeTemplate.from_acceptance((0.6, 0.2, 0.1), nodes)
        assert tree.expected_tokens((0.6, 0.2, 0.1)) == pytest.approx(value)


def test_published_template_has_its_shape():
    tree = tb.TEMPLATES["2.2.2"]
    levels = [tree.depth.count(d) for d in range(7)]
    assert levels == [1, 8, 21, 25, 15, 8, 3]
    assert sum(i not in tree.parent for i in range(tree.nodes)) == 40


def test_statistics():
    model = tiny_model("llama", torch.float32)
    ids, mask = prompts(3, 10, 4, ragged=True)
    seen = []
    out = tb.TreeDecoder(model, tb.TokenRecycling("4x2x1")).generate(
        ids, mask, max_new_tokens=20, callback=lambda tokens, counts: seen.append(int(counts.sum()))
    )
    assert out.stats.new_tokens == [20, 20, 20]
    assert len(seen) == out.stats.forwards - 1 and seen == sorted(seen) and seen[-1] == 60
    assert len(out.stats.accepted_by_depth) == 3
    assert out.stats.tokens_per_forward == pytest.approx(20 / out.stats.forwards)


def test_custom_generate():
    model = tiny_model("llama", torch.float32)
    ids, _ = prompts(1, 14, 6)
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = model.generate(ids, **options)
    drafter = tb.TokenRecycling("2.2.2")
    got = model.generate(ids, custom_generate=tb.token_recycling, drafter=drafter, **options)
    assert torch.equal(got, want) and drafter.adjacency is not None
    ids, mask = prompts(3, 14, 6, ragged=True)
    want = tb.TreeDecoder(model).generate(ids, mask, max_new_tokens=16).sequences
    ragged = {"attention_mask": mask, "custom_generate": tb.token_recycling}
    assert torch.equal(model.generate(ids, **ragged, **options), want)
    full = model.generate(ids, return_dict_in_generate=True, **ragged, **options)
    assert torch.equal(full.sequences, want)
    with pytest.raises(ValueError, match="num_beams: expected 1"):
        model.generate(ids, custom_generate=tb.token_recycling, max_new_tokens=4, num_beams=2)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_logits_do_not_depend_on_what_is_scored_beside_them(dtype, threads, monkeypatch):
    # The promise behind identical text: any number of tokens, any number of threads.
    seen, original = [], Target.logits
    monkeypatch.setattr(Target, "logits", lambda run, h: seen.append(original(run, h)) or seen[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for nodes in (1, 5, 9, 11, 18):
            drafter = tb.TokenRecycling(tb.TreeTemplate.chain(nodes - 1), prefill=False)
            tb.TreeDecoder(tiny_model("llama", dtype), drafter).generate(
                prompts(1, 13, 9)[0], max_new_tokens=2
            )
    finally:
        torch.set_num_threads(before)
    after_prompt, at_root = seen[0::2], [logits[:, 0] for logits in seen[1::2]]
    for first, second in zip(after_prompt, at_root, strict=True):
        assert torch.equal(first, after_prompt[0]) and torch.equal(second, at_root[0])
