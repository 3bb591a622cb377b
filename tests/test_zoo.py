"""The built-in models: small, stock, and as good as their records say."""

import json

import pytest
import torch

import tokenburst as tb
from tokenburst import zoo
from tokenburst.zoo import recall, sudoku


def test_the_folder_stays_small():
    folder = zoo.path("pycode").parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 10_000_000


@pytest.mark.parametrize("name", zoo.MODELS)
def test_each_model_is_stock_and_recorded(name):
    model = zoo.load(name)
    assert type(model).__module__.startswith("transformers.models.llama")
    assert (getattr(model.config, "is_causal", True) is False) == (
        zoo.MODELS[name].family == "diffusion"
    )
    record = json.loads((zoo.path(name) / "training.json").read_text())
    for key in ("seed", "steps", "seconds", "train_loss", "torch"):
        assert key in record, key


def test_unknown_name():
    with pytest.raises(
        ValueError, match=r"expected|must be one of pycode, recall, sudoku4, sudoku6"
    ):
        zoo.path("gpt5")


@pytest.mark.parametrize("side", [4, 6])
def test_puzzles_have_one_solution_that_was_held_out(side):
    puzzles, solutions = sudoku.puzzles(side, 6, seed=3, split="test")
    assert sudoku.in_test(solutions).all() and sudoku.is_solved(solutions, puzzles).all()
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        assert sudoku.solutions(puzzle.tolist(), side, 2) == [solution.tolist()]
    broken = solutions.clone()
    broken[:, 0] = broken[:, 1]
    assert not sudoku.is_solved(broken, puzzles).any()
    other = solutions.roll(1, 0)  # solved boards, but of other puzzles
    assert not sudoku.is_solved(other, puzzles).any()


def test_confidence_cuts_forwards_at_equal_accuracy():
    questions, _ = sudoku.puzzles(4, 24, seed=5, split="test")
    model, prompt = zoo.load("sudoku4"), zoo.prompt_ids("sudoku4")
    ids = torch.cat([prompt.expand(len(questions), -1), questions], 1)
    solved, steps = {}, {}
    for name, policy in {
        "one": tb.LowConfidence(tokens_per_step=1),
        "sure": tb.Threshold(0.95),
        "all": tb.LowConfidence(tokens_per_step=16),
    }.items():
        out = tb.DiffusionDecoder(model, policy).infill(ids)
        cells = out.sequences[:, len(prompt) :]
        solved[name] = sudoku.is_solved(cells, questions).float().mean().item()
        steps[name] = sum(s[0] for s in out.stats.steps)
    assert solved["one"] >= 0.95 and solved["sure"] >= 0.95 > 0.5 > solved["all"]
    assert steps["sure"] * 3 < steps["one"]


def test_recall_answers_from_a_long_text_under_sparse_attention():
    masked, solved = recall.texts(3, 32, torch.Generator().manual_seed(3))
    asked = masked == recall.MASK
    model, policy = zoo.load("recall"), tb.LowConfidence(tokens_per_step=16)
    right = {}
    for keep in (None, 0.5, 0.0):
        attention = None if keep is None else tb.SparseD(keep, 0.0, 32, steps=1)
        out = tb.DiffusionDecoder(model, policy, attention=attention).infill(masked)
        right[keep] = (out.sequences == solved)[asked].float().mean().item()
    assert right[None] >= 0.99 and right[0.5] >= 0.9 and right[0.0] < 0.8


def test_recycling_gains_on_held_out_code():
    model, tokenizer = zoo.load("pycode"), zoo.tokenizer("pycode")
    plain, recycling = tb.TreeDecoder(model), tb.TreeDecoder(model, tb.TokenRecycling("2.2.2"))
    forwards = [0, 0]
    for entry in zoo.prompts("pycode")[:4]:
        ids = tokenizer(entry["text"], return_tensors="pt", add_special_tokens=False)["input_ids"]
        one, many = (d.generate(ids, max_new_tokens=48) for d in (plain, recycling))
        assert torch.equal(one.sequences, many.sequences)
        forwards = [forwards[0] + one.stats.forwards, forwards[1] + many.stats.forwards]
    assert forwards[0] > 2 * forwards[1]


def test_the_draft_model_of_pycode_is_right_often():
    target, small = zoo.load("pycode"), zoo.draft("pycode")
    ids = zoo.tokenizer("pycode")(zoo.prompts("pycode")[0]["text"], return_tensors="pt")
    with torch.no_grad():
        p, q = (m(ids["input_ids"]).logits.softmax(-1) for m in (target, small))
    assert sum(w.numel() for w in small.parameters()) * 4 < target.num_parameters()
    assert torch.minimum(p, q).sum(-1).mean() > 0.5
    with pytest.raises(ValueError, match="sudoku4 has no draft model"):
        zoo.draft("sudoku4")
