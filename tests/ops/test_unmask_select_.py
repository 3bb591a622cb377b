"""What the samples cannot say about `unmask_select_`: messages, invariants, laws of chance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenburst import ops, ref

MASK = 9


def fresh(batch=2, length=6, candidates=4):
    x = torch.full((batch, length), MASK)
    position = torch.arange(candidates).expand(batch, -1).contiguous()
    token = torch.ones(batch, candidates, dtype=torch.int64)
    return {
        "x": x,
        "position": position,
        "token": token,
        "mask_id": MASK,
        "score": torch.linspace(0, 1, candidates).expand(batch, -1),
        "top_k": torch.full((batch,), 2),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 6)}, "x: expected int32 or int64, got float32"),
        ({"x": torch.zeros(6, 2).long().t()}, "x: expected a contiguous last dimension"),
        ({"x": torch.zeros(1, 6).long().expand(2, 6)}, "x: expected rows that do not overlap"),
        ({"position": torch.zeros(2, 4)}, "position: expected int32 or int64"),
        ({"position": torch.tensor([[0, 1, 2, 6]] * 2)}, "position: .*< 6 in sequence 0, got 6"),
        ({"position": torch.tensor([[0, 1, 2, -2]] * 2)}, "position: .*got -2"),
        ({"token": torch.zeros(2, 3).long()}, r"token: expected shape \[2, 4\], got \[2, 3\]"),
        ({"token": torch.full((2, 4), -2)}, "token: expected a token id, or -1 for none,.*got -2"),
        ({"mask_id": -1}, "mask_id: expected a token id, got -1"),
        ({"score": torch.zeros(2, 4).double()}, "score: expected float32, got float64"),
        ({"score": None}, "score: expected score or rng, got neither"),
        ({"rng": torch.zeros(2, 3).long()}, "rng: expected none beside score, unless"),
        ({"score": None, "rng": torch.zeros(2, 3)}, "rng: expected int64, got float32"),
        ({"top_k": torch.tensor([1, -1])}, "top_k: expected top_k >= 0 in sequence 1, got -1"),
        ({"threshold": torch.tensor([0.5, torch.nan])}, "threshold: expected a number.*got nan"),
        ({"top_k": None}, "top_k: expected at least one rule of .*got none"),
        ({"factor": torch.tensor([1.0, -1.0])}, "factor: expected a number >= 0 in sequence 1"),
        ({"factor": torch.ones(2), "lowest_first": True}, "factor: expected scores of which the h"),
        ({"budget": torch.ones(2)}, "budget: expected scores of which the lowest is best"),
        ({"near": torch.ones(2)}, "near: expected a threshold that makes anchors, got None"),
        ({"reach": -1}, "reach: expected reach >= 0, got -1"),
        ({"reveal": torch.ones(2)}, "rng: expected one for reveal and noise, got None"),
        ({"most": torch.tensor([1, -3])}, "most: expected most >= 0 in sequence 1, got -3"),
        ({"damping": torch.ones(2)}, "damping: expected both damped and damping"),
        ({"edit": torch.tensor([torch.nan, 0.5])}, "edit: expected a number in sequence 0"),
        ({"commit_all": torch.zeros(2).long()}, "commit_all: expected bool, got int64"),
    ],
)
def test_refusals(change, message):
    args = fresh() | change
    before = args["x"].clone()
    with pytest.raises(RuntimeError, match="unmask_select_: " + message):
        ops.unmask_select_(**args)
    assert torch.equal(args["x"], before)


def test_writes_in_place_and_counts():
    args = fresh()
    args["x"][0, 3] = 7  # decided: the best candidate of row 0 takes no part
    got = ops.unmask_select_(**args)
    assert args["x"].tolist() == [[MASK, 1, 1, 7, MASK, MASK], [MASK, MASK, 1, 1, MASK, MASK]]
    assert got.committed.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert (got.n_committed.tolist(), got.n_left.tolist()) == ([2, 2], [1, 2])


def test_ties_go_to_the_lower_position_and_zeros_are_equal():
    args = fresh(1) | {"score": torch.tensor([[-0.0, 0.0, 0.0, -0.0]])}
    args["position"] = torch.tensor([[5, 3, 1, 4]])
    ops.unmask_select_(**args)
    assert args["x"].tolist() == [[MASK, 1, MASK, 1, MASK, MASK]]


def test_first_of_two_proposals_for_a_position_counts_even_if_it_says_nothing():
    args = fresh(1) | {"position": torch.tensor([[2, 2, 3, 3]])}
    args["token"] = torch.tensor([[-1, 4, 5, 6]])
    got = ops.unmask_select_(**args)
    assert args["x"].tolist() == [[MASK, MASK, MASK, 5, MASK, MASK]]
    assert got.n_left.tolist() == [1]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_invariants(data):
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 20))
    candidates = data.draw(st.integers(0, 20))

    def table(low, high, columns):
        values = st.lists(st.integers(low, high), min_size=columns, max_size=columns)
        return torch.tensor([data.draw(values) for _ in range(batch)], dtype=torch.int64)

    x = table(MASK - 2, MASK, length)
    args = [table(-1, length - 1, candidates), table(-1, MASK, candidates), MASK]
    rules = {
        "score": table(-2, 2, candidates).float(),
        "top_k": table(0, 4, 1)[:, 0],
        "threshold": table(-3, 3, 1)[:, 0].float(),
        "min_one": data.draw(st.booleans()),
        "lowest_first": data.draw(st.booleans()),
        "commit_all": table(0, 1, 1)[:, 0].bool() if data.draw(st.booleans()) else None,
    }
    after, want = x.clone(), x.clone()
    got = ops.unmask_select_(after, *args, **rules)
    expected = ref.unmask.unmask_select_(want, *args, **rules)
    assert torch.equal(after, want)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    changed = after != x
    assert bool((x[changed] == MASK).all()) and bool((after[changed] != MASK).all())
    assert changed.sum(1).tolist() == got.n_committed.tolist()
    for b in range(batch):  # a row alone gives the row
        alone = x[b : b + 1].clone()
        one = {k: v[b : b + 1] if torch.is_tensor(v) else v for k, v in rules.items()}
        ops.unmask_select_(alone, args[0][b : b + 1], args[1][b : b + 1], MASK, **one)
        assert torch.equal(alone[0], after[b])


def test_random_order_is_uniform_and_depends_on_its_names_only():
    batch, n = 4000, 5
    x = torch.full((batch, n), MASK)
    position, token = torch.arange(n).expand(batch, -1), torch.ones(batch, n).long()
    rng = torch.stack([torch.full((batch,), 3), torch.arange(batch), torch.zeros(batch)], 1).long()
    rules = {"rng": rng, "top_k": torch.full((batch,), 2)}
    got = ops.unmask_select_(x, position, token, MASK, **rules)
    share = got.committed.float().mean(0)
    assert float((share - 0.4).abs().max()) < 5 * (0.4 * 0.6 / batch) ** 0.5
    back = torch.full((batch, n), MASK)  # candidates in another order, sequences in another order
    rules["rng"] = rng.flip(0)
    ops.unmask_select_(back, position.flip(1), token, MASK, **rules)
    assert torch.equal(back.flip(0), x)


def test_noise_draws_without_replacement_by_the_softmax_of_the_scores():
    batch, weights = 6000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    x = torch.full((batch, 4), MASK)
    position, token = torch.arange(4).expand(batch, -1), torch.ones(batch, 4).long()
    rng = torch.stack([torch.full((batch,), 5), torch.arange(batch), torch.zeros(batch)], 1).long()
    score = (0.5 * weights.log()).expand(batch, -1)
    rules = {"rng": rng, "noise": torch.full((batch,), 0.5), "top_k": torch.full((batch,), 2)}
    got = ops.unmask_select_(x, position, token, MASK, score=score, **rules)
    pairs = weights * weights[:, None] / (1 - weights[:, None])
    want = weights + (pairs - pairs.diag().diag()).sum(0)  # drawn first or second
    error = (got.committed.float().mean(0) - want).abs()
    assert float(error.max()) < 5 * (0.25 / batch) ** 0.5


def test_reveal_commits_each_mask_with_its_probability():
    batch = 6000
    x = torch.full((batch, 3), MASK)
    position, token = torch.arange(3).expand(batch, -1), torch.ones(batch, 3).long()
    rng = torch.stack([torch.full((batch,), 5), torch.arange(batch), torch.zeros(batch)], 1).long()
    got = ops.unmask_select_(
        x, position, token, MASK, rng=rng, reveal=torch.full((batch,), 0.3)
    ).committed.float()
    assert float((got.mean(0) - 0.3).abs().max()) < 5 * (0.21 / batch) ** 0.5
    assert abs(float((got[:, 0] * got[:, 1]).mean()) - 0.09) < 5 * (0.09 / batch) ** 0.5
