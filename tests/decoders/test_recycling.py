"""Token Recycling's matrices: groups, duplicates, the prompt, what a file may hold."""

import pytest
import torch
from safetensors.torch import save_file

import tokenburst as tb
from tiny import VOCAB, prompts, tiny_model

TREE = "4x2x1"


def model():
    return tiny_model("llama", torch.float32)


def test_rows_use_the_matrices_that_were_chosen():
    ids, mask = prompts(4, 12, 3, ragged=True)
    limits, chosen = [9, 20, 4, 14], [2, 0, 4, 1]  # rows leave and are rearranged
    grouped = tb.TokenRecycling(TREE, groups=5)
    grouped.choose(chosen)
    options = {"max_new_tokens": limits, "pad_token_id": 0}
    got = tb.TreeDecoder(model(), grouped).generate(ids, mask, **options).sequences
    assert torch.equal(got, tb.TreeDecoder(model()).generate(ids, mask, **options).sequences)
    assert grouped.adjacency.shape == (5, VOCAB, 8) and (grouped.adjacency[3] == -1).all()
    for row, group in enumerate(chosen):
        alone = tb.TokenRecycling(TREE)
        one = ids[row, mask[row] != 0][None]
        tb.TreeDecoder(model(), alone).generate(one, max_new_tokens=limits[row])
        assert torch.equal(alone.adjacency, grouped.adjacency[group])


def test_groups_do_not_mix():
    ids, _ = prompts(1, 15, 1)
    drafter = tb.TokenRecycling(TREE, groups=2)
    decoder = tb.TreeDecoder(model(), drafter)

    def forwards(group):
        drafter.choose([group])
        return decoder.generate(ids, max_new_tokens=30).stats.forwards

    cold = forwards(0)
    assert forwards(0) < cold and forwards(1) == cold


def test_groups_are_saved_and_loaded(tmp_path):
    drafter = tb.TokenRecycling(TREE, groups=2)
    drafter.choose([1])
    tb.TreeDecoder(model(), drafter).generate(prompts(1, 15, 1)[0], max_new_tokens=10)
    drafter.save(tmp_path / "m.safetensors")
    again = tb.TokenRecycling.load(tmp_path / "m.safetensors", TREE)
    assert again.groups == 2 and torch.equal(again.adjacency, drafter.adjacency)


def test_siblings_differ_even_from_a_bad_file(tmp_path):
    rows = torch.randint(0, 4, (VOCAB, 8), dtype=torch.int32)
    save_file({"adjacency": rows}, tmp_path / "m.safetensors")
    drafter = tb.TokenRecycling.load(tmp_path / "m.safetensors", TREE)
    for row, before in zip(drafter.adjacency.tolist(), rows.tolist(), strict=True):
        real = [token for token in row if token >= 0]
        assert len(real) == len(set(real)) and set(real) == set(before) and row[0] == before[0]
    ids, _ = prompts(3, 9, 2)
    options = {"max_new_tokens": 12, "temperature": 0.7}
    want = tb.TreeDecoder(model()).generate(ids, **options).sequences
    assert torch.equal(tb.TreeDecoder(model(), drafter).generate(ids, **options).sequences, want)


def test_the_prompt_is_learned_where_it_is_wanted():
    ids, _ = prompts(1, 30, 4)
    for prefill in (True, False):
        drafter = tb.TokenRecycling(TREE, prefill=prefill)
        tb.TreeDecoder(model(), drafter).generate(ids, max_new_tokens=2)
        known = (drafter.adjacency[ids[0, :-1], 0] >= 0).float().mean()
        assert (known == 1) == prefill


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.TokenRecycling(groups=0), "groups: expected >= 1, got 0"),
        (lambda: tb.TokenRecycling(groups=2).choose([0, 2]), r"groups: expected 0..1, got 2"),
        (lambda: tb.TokenRecycling().save("x"), "adjacency: expected a used matrix, got none"),
        (lambda: wrong_rows(), "groups: expected one for each of 2 rows, got 3"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match="TokenRecycling: .*" + message):
        make()


def wrong_rows():
    drafter = tb.TokenRecycling(TREE, groups=2)
    drafter.choose([0, 1, 1])
    tb.TreeDecoder(model(), drafter).generate(prompts(2, 5, 0)[0], max_new_tokens=3)


def test_a_file_without_a_matrix(tmp_path):
    save_file({"adjacency": torch.zeros(3, 2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"expected an int32 \[V, K\] or \[G, V, K\] 'adjacency'"):
        tb.TokenRecycling.load(tmp_path / "m.safetensors")
