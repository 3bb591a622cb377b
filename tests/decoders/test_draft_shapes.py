"""Trees drawn from a toy model: exact under verification, as long as published, and as drawn."""

import heapq

import pytest
import torch

import tokenburst as tb
from tokenburst import ops
from tokenburst.decoders.drafting import DraftState
from tokenburst.decoders.drawing import Drawer
from tokenburst.decoders.sequoia import SequoiaTable
from toys import P2, Q2, T3, T3X2_JOINT, chi2, streams

TRIALS = 200_000


class ToyReader:
    """Two levels of a draft model over three tokens; below them the first one again."""

    def root(self, state):
        return T3[1].log().expand(len(state.root), 1, 3).contiguous()

    def level(self, tokens, parent_row, depth):
        law = Q2[tokens.clamp(min=0)] if depth == 1 else T3[1].expand(*tokens.shape, 3)
        return law.log()


def toy_state(batch, temperature=1.0):
    return DraftState(
        tokens=torch.zeros(batch, 8, dtype=torch.int64),
        length=torch.full((batch,), 5, dtype=torch.int32),
        root=torch.zeros(batch, dtype=torch.int64),
        active=torch.ones(batch, dtype=torch.bool),
        temperature=torch.full((batch,), temperature),
        rng=streams(batch),
        greedy=temperature == 0,
    )


def drawn_tree(shape, batch):
    state = toy_state(batch)
    shape.begin(batch, torch.device("cpu"))
    drawer = Drawer(ToyReader(), state)
    return shape.draw(drawer, state), drawer


def verified(shape, batch=TRIALS):
    """The tree, and the target's verdict on it."""
    drawn, drawer = drawn_tree(shape, batch)
    tokens, tree = drawn.tokens, drawn.tree
    pad = tree.nodes - tokens.shape[1]
    tokens = torch.nn.functional.pad(tokens, (0, pad), value=-1)
    p = torch.where(tree.depth[:, :, None] == 1, P2[tokens.clamp(0, 2)], T3[0])
    row = drawn.row
    if drawn.draws is None:
        row = torch.nn.functional.pad(row, (0, tree.nodes - row.shape[1]), value=-1)
    out = ops.tree_verify_sample(
        *(tokens, tree.parents, tree.count, p.log(), shape.verification, streams(batch)),
        draft_logits=drawer.distributions(),
        draft_temperature=drawer.temperature,
        draft_row=row,
        draws=drawn.draws,
    )
    return tokens, out


def two_tokens(tokens, out):
    """The first two tokens of each trial; the second is the target's own where one was written."""
    second_node, more = out.path[:, 2].long(), out.n_accepted
    first = torch.where(more >= 2, tokens.gather(1, out.path[:, 1:2].clamp(min=0).long())[:, 0], -1)
    first = torch.where(more == 1, out.next_token, first)
    own = torch.multinomial(P2[first], 1)[:, 0]
    drafted = tokens.gather(1, second_node.clamp(min=0)[:, None])[:, 0]
    return first, torch.where(more == 1, own, torch.where(more == 2, out.next_token, drafted))


SHAPES = {
    "branching-1-1": (tb.Branching((1, 1)), 1.21),
    "branching-1-2": (tb.Branching((1, 2)), 4539 / 3500),
    "branching-2-1": (tb.Branching((2, 1)), 1.33),
    "branching-2-2": (tb.Branching((2, 2)), 10023 / 7000),
    "uneven": (tb.TreeTemplate((-1, 0, 0, 2), (0, 0, 1, 0)), None),
    "beam": (tb.StochasticBeam(2, 2), 1.3308),
    "kseq": (tb.Independent(2, 2), 1.32158088),
    "multi-step": (tb.Independent(2, 2, "rrs_wr"), None),
    "dyspec-1": (tb.DySpec(1, depth=2), 0.7),
    "dyspec-2": (tb.DySpec(2, depth=2), 0.94),
    "dyspec-3": (tb.DySpec(3, depth=2), 1.0042857),
    "dyspec-4": (tb.DySpec(4, depth=2), 1.0492857),
    "dyspec-narrow": (tb.DySpec(4, depth=2, width=1, siblings=2), None),
    "dyspec-threshold": (tb.DySpec(6, depth=2, threshold=0.2), None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_verified_text_has_the_targets_law(name):
    shape, accepted = SHAPES[name]
    if isinstance(shape, tb.TreeTemplate):
        shape = tb.StaticTree(shape)
    tokens, out = verified(shape)
    first, second = two_tokens(tokens, out)
    assert chi2(first * 3 + second, T3X2_JOINT) < 1
    if accepted is not None:
        counts = (out.n_accepted - 1).double()
        error = float(counts.std()) / TRIALS**0.5
        # The beam's length is known from another simulation only.
        known = 0.0013 if name == "beam" else 0.0
        assert abs(float(counts.mean()) - accepted) < 4.5 * error + known


def test_siblings_out_of_draw_order_are_detected():
    class Sorted(tb.StochasticBeam):
        def draw(self, drawer, state):
            drawn = super().draw(drawer, state)
            # Nodes 1 and 2 change places, and so do their children's parents, where ids fall.
            swap = drawn.tokens[:, 1] > drawn.tokens[:, 2]
            tokens, parents = drawn.tokens.clone(), drawn.tree.parents.clone()
            tokens[swap, 1:3] = tokens[swap, 1:3].flip(1)
            below = parents[:, 3:5].where(~swap[:, None], 3 - parents[:, 3:5])
            parents[:, 3:5] = below
            tree = type(drawn.tree).from_parents(parents[:, :5], drawn.tree.count)
            return drawn._replace(tokens=tokens, tree=tree)

    first, second = two_tokens(*verified(Sorted(2, 2)))
    assert chi2(first * 3 + second, T3X2_JOINT) > 1


def heap_values(budget, draws, q):
    """Values in the order in which the published heap pops them; draws[path] in draw order."""
    heap, popped, order = [(-1.0, 0, (), 0)], [], 1
    while heap and len(popped) < budget:
        value, _, path, j = heapq.heappop(heap)
        popped.append(-value)
        if path not in draws or j == len(draws[path]):
            continue
        token = draws[path][j]
        left = 1.0 - sum(q(path, x) for x in draws[path][:j])
        if j + 1 < len(draws[path]):
            rest = value / left * (left - q(path, token))
            heapq.heappush(heap, (rest, order, path, j + 1))
        if (*path, token) in draws:
            heapq.heappush(heap, (value / left * q(path, token), order + 1, (*path, token), 0))
        order += 2
    return popped


def by_path(drawn, b):
    """Draws below each path, in draw order."""
    tokens, parents = drawn.tokens[b].tolist(), drawn.tree.parents[b].tolist()
    paths, draws = {0: ()}, {}
    for i, token in enumerate(tokens):
        if i and token >= 0:
            paths[i] = (*paths[parents[i]], token)
            draws.setdefault(paths[parents[i]], []).append(token)
    return draws


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_dyspec_is_the_heap(budget):
    def q(path, token):
        return float(Q2[path[0]][token] if path else T3[1][token])

    batch, bounds = 30, {"depth": 2, "width": 3, "siblings": 3}
    everything, _ = drawn_tree(tb.DySpec(12, **bounds), batch)
    chosen, _ = drawn_tree(tb.DySpec(budget, **bounds), batch)
    for b in range(batch):
        draws, mine = by_path(everything, b), by_path(chosen, b)
        values = []
        for path, tokens in mine.items():
            assert tokens == draws[path][: len(tokens)]  # the first draws, in their order
            reach = q((), path[0]) if path else 1.0
            values += [
                reach * (1 - sum(q(path, x) for x in tokens[:j])) for j in range(len(tokens))
            ]
        assert sorted(values, reverse=True) == pytest.approx(heap_values(budget, draws, q))


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_sequoia_table_is_the_published_one(depth):
    published = {
        None: {2: 1.6, 3: 1.96, 4: 2.176, 5: 2.376, 6: 2.5056, 8: 2.7456},
        1: {2: 1.6, 3: 1.8, 4: 1.9},
        2: {3: 1.96, 4: 2.16},
    }[depth]
    chances = (0.6, 0.2, 0.1)
    table = SequoiaTable(chances, 8, depth)
    for nodes, value in published.items():
        assert table.expected_tokens(nodes) == pytest.approx(value)
        tree = table.tree(nodes)
        assert tree.nodes == nodes and tree.expected_tokens(chances) == pytest.approx(value)
        assert depth is None or max(tree.depth) <= depth


def test_sequoia_chooses_by_time():
    table = SequoiaTable((0.6, 0.2, 0.1), 16)
    assert table.fastest(lambda nodes, depth: 1.0).nodes == 16
    assert table.fastest(lambda nodes, depth: float(nodes)).nodes == 1
    assert max(table.fastest(lambda nodes, depth: 0.1 + depth).depth) == 0
    with pytest.raises(ValueError, match="a tree of 6 nodes within depth 1 and 3 ranks, got none"):
        tb.sequoia_tree((0.6, 0.2, 0.1), 6, 1)
    with pytest.raises(ValueError, match="acceptance: expected chances in"):
        tb.sequoia_tree((1.2,), 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.Chain(0), "Chain: length: expected >= 1, got 0"),
        (lambda: tb.Branching(()), "Branching: factors: expected numbers >= 1"),
        (lambda: tb.Branching((2, 0)), "Branching: factors"),
        (lambda: tb.Independent(0, 2), "Independent: k: expected >= 1, got 0"),
        (lambda: tb.Independent(2, 2, "rrs"), "verification: expected 'kseq' or 'rrs_wr'"),
        (lambda: tb.StochasticBeam(1, 0), "StochasticBeam: depth: expected >= 1, got 0"),
        (lambda: tb.DySpec(0), "DySpec: budget: expected >= 1, got 0"),
        (lambda: tb.DySpec(3, threshold=1.0), "threshold: expected 0 <= threshold < 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
