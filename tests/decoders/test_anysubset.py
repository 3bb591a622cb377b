"""Any-subset decoding on an exact joint of three bits: its law and its calls."""

import pytest
import torch

import tokenburst as tb
from tokenburst import zoo
from tokenburst.zoo import sudoku
from toys import chi2, close

JOINT = torch.tensor([2.0, 1, 3, 4, 5, 1, 1, 3]).view(2, 2, 2) / 20
TRIALS = 40_000


class Bits:
    """Conditionals of the joint, by enumeration; `noise` makes the two calls of a round differ."""

    def __init__(self, noise=0.0):
        self.noise, self.batches = noise, 0

    def __call__(self, tokens, rank, positions, bound):
        self.batches += 1
        cells = torch.cartesian_prod(*[torch.arange(2)] * 3)  # [8, 3]
        joint = JOINT.flatten()
        rows = []
        for at, limit in zip(positions.T, bound.T, strict=True):
            seen = rank < limit[:, None]
            fits = ((cells[None] == tokens[:, None]) | ~seen[:, None]).all(-1)
            mass = (fits * joint)[:, :, None] * torch.stack(
                [cells.T[at] == 0, cells.T[at] == 1], -1
            )
            rows.append(mass.sum(1))
        logits = torch.stack(rows, 1).log()
        return logits + self.noise * self.batches * torch.tensor([0.0, 1.0])


def infill(k, rank=None, **options):
    tokens = torch.zeros(TRIALS, 3, dtype=torch.int64)
    rank = None if rank is None else torch.tensor(rank).expand(TRIALS, 3).contiguous()
    model = Bits()
    given = torch.zeros(TRIALS, 3, dtype=torch.bool)
    return tb.AnySubsetDecoder(model, k).infill(tokens, given, rank=rank, **options)


@pytest.mark.parametrize(("k", "calls"), [(1, 3.0), (2, 3.0), (3, 2.15), (7, 2.15)])
def test_law_and_calls(k, calls):
    out = infill(k)
    cell = (out.sequences * torch.tensor([4, 2, 1])).sum(1)
    assert chi2(cell, JOINT) < 1
    if calls == 3.0:
        assert (out.calls == 3).all()
    else:
        assert (out.calls >= 2).all() and close(int((out.calls == 3).sum()), TRIALS, calls - 2)


@pytest.mark.parametrize("rank", [(2, 0, 1), (1, 2, 0)])
def test_any_order_gives_the_same_joint(rank):
    out = infill(3, rank)
    assert chi2((out.sequences * torch.tensor([4, 2, 1])).sum(1), JOINT) < 1


def test_given_tokens_stay_and_condition():
    tokens = torch.tensor([[0, 1, 0]]).repeat(TRIALS, 1)
    given = torch.tensor([[False, True, False]]).repeat(TRIALS, 1)
    given[: TRIALS // 2, 0] = True  # rows of different lengths in one batch
    out = tb.AnySubsetDecoder(Bits(), 2).infill(tokens, given, seed=3).sequences
    assert (out[:, 1] == 1).all() and (out[: TRIALS // 2, 0] == 0).all()
    rest = JOINT[:, 1] / JOINT[:, 1].sum()
    assert chi2(out[TRIALS // 2 :, 0] * 2 + out[TRIALS // 2 :, 2], rest) < 1
    assert chi2(out[: TRIALS // 2, 2], JOINT[0, 1] / JOINT[0, 1].sum()) < 1


def test_the_first_draft_is_accepted_even_where_the_calls_disagree():
    tokens, given = torch.zeros(64, 3, dtype=torch.int64), torch.zeros(64, 3, dtype=torch.bool)
    out = tb.AnySubsetDecoder(Bits(noise=50.0), 2).infill(tokens, given)
    assert (out.calls == 3).all()


def test_greedy_and_nothing_to_do():
    out = infill(3, temperature=0.0).sequences
    assert (out == torch.tensor([0, 1, 1])).all()  # each bit the likeliest given those before
    tokens, given = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    full = tb.AnySubsetDecoder(Bits(), 3).infill(tokens, given)
    assert torch.equal(full.sequences, tokens) and full.rounds == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 3)}, r"tokens: expected int64 \[batch, length\]"),
        ({"given": torch.zeros(2, 2, dtype=torch.bool)}, r"given: expected bool \(2, 3\)"),
        ({"rank": torch.zeros(2, 3, dtype=torch.int64)}, "rank: expected permutations"),
        ({"rank": torch.tensor([[2, 1, 0]] * 2)}, "with the known tokens first"),
        ({"temperature": -1.0}, "temperature: expected >= 0"),
    ],
)
def test_refusals(change, message):
    given = torch.tensor([[True, False, False]] * 2)
    args = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "given": given} | change
    with pytest.raises(ValueError, match=message):
        tb.AnySubsetDecoder(Bits()).infill(args.pop("tokens"), args.pop("given"), **args)
    with pytest.raises(ValueError, match="k: expected >= 1"):
        tb.AnySubsetDecoder(Bits(), 0)


def test_a_masked_diffusion_model_is_an_any_order_model():
    puzzles, _ = sudoku.puzzles(4, 12, seed=5, split="test")
    model, prompt = zoo.load("sudoku4"), zoo.prompt_ids("sudoku4")
    ids = torch.cat([prompt.expand(len(puzzles), -1), puzzles], 1)
    any_order, given = tb.MaskedAnyOrder(model), ids != model.config.mask_token_id
    done = [
        tb.AnySubsetDecoder(any_order, k).infill(ids, given, temperature=0.0) for k in (1, 2, 6)
    ]
    missing = (~given).sum(1)
    assert torch.equal(done[0].calls, missing)
    assert all(torch.equal(out.sequences, done[0].sequences) for out in done)
    cells = done[0].sequences[:, len(prompt) :]
    assert sudoku.is_solved(cells, puzzles).float().mean() > 0.7  # left to right, sure or not
    assert all((out.calls <= missing).all() for out in done)
    assert done[2].calls.sum() < 0.7 * missing.sum()
    # Drawn, in a random order of the missing cells.
    noise = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) + (~given)
    rank = noise.argsort(1).argsort(1)
    out = tb.AnySubsetDecoder(any_order, 4).infill(ids, given, rank=rank, seed=3)
    assert (out.calls <= missing).all()
    assert sudoku.is_solved(out.sequences[:, len(prompt) :], puzzles).float().mean() > 0.5
    with pytest.raises(ValueError, match="mask_id: expected the id of the mask, got none"):
        tb.MaskedAnyOrder(zoo.load("pycode"))
