"""What the samples cannot say about the n-gram table: a mean by hand, draws, messages."""

import pytest
import torch

from tokenburst import ops


def empty(slots=64, width=10):
    return (
        torch.zeros(slots, dtype=torch.int64),
        torch.zeros(slots, dtype=torch.int32),
        torch.full((slots, width), -1, dtype=torch.int32),
        torch.zeros(slots, width),
    )


def show(table, context, following, **options):
    """Teaches that `following` = {token: probability} stands behind the tokens of `context`."""
    ids = torch.tensor([[list(following)]])
    probs = torch.tensor([[list(following.values())]])
    text, root = torch.tensor([context[:-1]]).view(1, -1), torch.tensor([[context[-1]]])
    where = text, torch.tensor([len(context) - 1]), root, torch.tensor([[-1]])
    ops.ngram_update_(*table, *where, ids, probs, **options)


def stored(table, slot):
    _, _, ids, probs = table
    return {int(t): float(p) for t, p in zip(ids[slot], probs[slot], strict=True) if p > 0}


@pytest.mark.parametrize("width", [5, 3])
def test_running_mean(width):
    table = empty(width=width)
    for following in ({1: 0.7, 2: 0.2, 3: 0.05}, {1: 0.3, 2: 0.6, 4: 0.05}):
        show(table, [8, 9], following, most=2)
    slot = int(table[0].nonzero())
    want = {1: 0.5, 2: 0.4, 3: 0.025, 4: 0.025}
    assert stored(table, slot) == pytest.approx(dict(list(want.items())[:width]))
    assert int(table[1][slot]) == 2
    show(table, [8, 9], {2: 0.9, 5: 0.1}, most=2)
    want = {2: 0.566667, 1: 0.333333, 5: 0.033333, 3: 0.016667, 4: 0.016667}
    assert list(stored(table, slot)) == list(want)[:width]  # the most probable first
    assert stored(table, slot) == pytest.approx(dict(list(want.items())[:width]), abs=1e-6)


def test_the_longest_context_counts():
    table = empty()
    show(table, [1, 2, 3, 4], {7: 1.0}, most=4, least=4)
    show(table, [3, 4], {8: 1.0}, most=2, least=2)
    for text, want in (([1, 2, 3, 4], 7), ([0, 2, 3, 4], 8), ([1, 2, 4, 4], -1)):
        got = ops.ngram_draft(
            *(table[0], table[2], table[3]),
            *(torch.tensor([text]), torch.tensor([3]), torch.tensor([-1, 0]), torch.tensor([0, 0])),
        )
        assert got.tokens.tolist() == [[4, want]]


def test_contexts_reach_through_the_tree_into_the_text():
    table = empty()
    show(table, [5, 6, 7], {8: 1.0}, most=3, least=3)
    show(table, [4, 5, 6], {7: 1.0}, most=3, least=3)
    parent, rank = torch.tensor([-1, 0, 1]), torch.tensor([0, 0, 0])
    got = ops.ngram_draft(
        *(table[0], table[2], table[3], torch.tensor([[4, 5, 6, 0, 0]]), torch.tensor([2])),
        *(parent, rank),
        most=3,
        least=3,
    )
    assert got.tokens.tolist() == [[6, 7, 8]]


def test_the_context_seen_least_gives_way():
    table = empty(slots=8)
    for context in range(9):
        for _ in range(1 if context == 3 else 2):
            show(table, [context, context], {1: 1.0}, most=2)
    keys = table[0].clone()
    show(table, [3, 3], {1: 1.0}, most=2)
    assert int((keys != table[0]).sum()) == 1  # it was gone


def test_draws_are_without_replacement_in_their_order():
    # Successive draws by weights (.5, .4, .1): the published chances of ordered pairs.
    table = empty()
    show(table, [1, 1], {0: 0.5, 1: 0.4, 2: 0.1}, most=2)
    trials = 200_000
    rng = torch.zeros(trials, 3, dtype=torch.int64)
    rng[:, 1] = torch.arange(trials)
    got = ops.ngram_draft(
        *(table[0], table[2], table[3], torch.ones(trials, 2, dtype=torch.int64)),
        torch.ones(trials, dtype=torch.int64),
        *(torch.tensor([-1, 0, 0]), torch.tensor([0, 0, 1])),
        rng=rng,
        most=2,
    )
    counts = torch.bincount(got.tokens[:, 1] * 3 + got.tokens[:, 2], minlength=9)
    want = torch.tensor([0, 0.4, 0.1, 1 / 3, 0, 1 / 15, 1 / 18, 2 / 45, 0]) * trials
    assert (counts[want == 0] == 0).all()
    seen = want > 0
    assert float(((counts - want)[seen] ** 2 / want[seen]).sum()) < 25.7  # 5 dof, p = 1e-4
    share = torch.zeros(trials, 3).scatter_(1, got.drawn[:, 0, :3], got.drawn_probs[:, 0, :3])
    assert torch.allclose(share, torch.tensor([0.5, 0.4, 0.1]).expand(trials, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(24, dtype=torch.int64)}, "key: expected 8, 16, 32, ... slots"),
        ({"key": torch.zeros(64, dtype=torch.int32)}, "key: expected int64"),
        ({"ids": torch.zeros(64, 17, dtype=torch.int32)}, "ids: expected 1 to 16 tokens per slot"),
        ({"probs": torch.zeros(64, 9)}, r"probs: expected shape \[64, 10\]"),
        ({"start": torch.tensor([6])}, "start: expected 0 <= start <= 5 in sequence 0, got 6"),
        ({"parent": torch.tensor([-1, 1])}, "parent: expected a topological order"),
        ({"rank": torch.tensor([0, -1])}, "rank: expected rank >= 0 at node 1"),
        ({"most": 9}, r"most: expected 2 \(least\) <= most <= 8, got 9"),
        ({"least": 0}, "least: expected least >= 1, got 0"),
        ({"temperature": torch.tensor([-1.0])}, "temperature: expected temperature >= 0"),
    ],
)
def test_refusals(change, message):
    key, _, ids, probs = empty()
    args = {"key": key, "ids": ids, "probs": probs, "text": torch.zeros(1, 5, dtype=torch.int64)}
    args |= {
        "start": torch.tensor([4]),
        "parent": torch.tensor([-1, 0]),
        "rank": torch.zeros(2).int(),
    }
    with pytest.raises(RuntimeError, match="ngram_draft: " + message):
        ops.ngram_draft(**args | change)


def test_update_refusals():
    one = torch.zeros(1, 1, dtype=torch.int64)
    where = one, torch.tensor([1]), one, one - 1
    with pytest.raises(RuntimeError, match=r"count: expected shape \[64\], got \[8\]"):
        ops.ngram_update_(
            empty()[0], empty(8)[1], *empty()[2:], *where, one[None], one[None].float()
        )
    with pytest.raises(RuntimeError, match="n_nodes: expected 0 <= n_nodes <= 1"):
        n = torch.tensor([2])
        ops.ngram_update_(*empty(), *where, one[None], one[None].float(), n_nodes=n)
    with pytest.raises(RuntimeError, match="parent: expected a topological order, -1 at node 0"):
        ops.ngram_update_(*empty(), *where[:3], one, one[None], one[None].float())
