"""The tables of what rules and caches solve: every row runs, and the tables say what was found."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

import tokenburst as tb

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch):
    """Runs the main of a bench file in this process, on one thread."""
    monkeypatch.syspath_prepend(BENCH)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"bench/{name}.py", *map(str, options)])
        return importlib.import_module(name).main()

    yield run
    torch.set_num_threads(threads)


def test_every_rule_has_a_row_and_the_chooser_quotes_them(bench, tmp_path, capsys):
    out, few = tmp_path / "out", ("--count", 2, "--training", 2, "--trained", tmp_path / "nets")
    bench("bench_rules", "--kinds", "sudoku4-3-free", "--out", out, *few)
    assert len(list((tmp_path / "nets").iterdir())) == 2
    result = json.loads((out / "rules-sudoku4-3-free.json").read_text())
    rows = {row["rule"]: row for row in result["rows"]}
    for part in ("HEX", "Guided, text of the diffusion", "joint", "Learned", "WINO", "ReMDM"):
        assert any(part in rule for rule in rows) or part == "Learned"
    assert all(0 <= r["accuracy"] <= 1 and r["forwards"] > 0 for r in rows.values())
    assert rows["one per step"]["forwards"] == 13
    capsys.readouterr()
    bench("bench_rules", "--out", out, "--chooser")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| rule | sudoku4, 3 givens, any completion |"
    assert len(lines) > 20 and not any("not run" in line for line in lines)
    one = rows["one per step"]
    assert f"| one per step | {100 * one['accuracy']:.1f} in 13.00 |" in lines
    pytest.importorskip("matplotlib")
    bench("bench_rules", "--out", out, "--table")
    text = (out / "rules.md").read_text()
    assert (
        "## sudoku4, 2 puzzles, 3 givens, any completion" in text and (out / "rules.png").exists()
    )
    assert all(f"| {rule} |" in text for rule in rows)


def test_trained_networks_are_kept(bench, tmp_path):
    trained = (bench, importlib.import_module("trained"))[1]
    first = trained.joint(tmp_path, "sudoku4", 1)
    again = trained.joint(tmp_path, "sudoku4", 1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_cache_has_a_row(bench, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCH)
    quality = importlib.import_module("quality_caches")
    greedy = tb.LowConfidence(ranking="random", tokens_per_step=11)
    rules = {
        "threshold 0.3": (tb.Threshold(0.3), quality.CACHES[1:]),
        "random": (greedy, quality.GREEDY),
    }
    monkeypatch.setattr(quality, "RULES", rules)
    bench("quality_caches", "--count", 2, "--only", "sudoku6", "--out", tmp_path)
    run = json.loads((tmp_path / "quality_caches.json").read_text())
    assert len(run["sections"]) == 2
    for rows in run["sections"].values():
        assert len(rows) == 11 and all(row["positions"] > 0 for row in rows)
    text = (tmp_path / "quality_caches.md").read_text()
    assert "| random | GreedyCache" in text and (tmp_path / "quality_caches.png").exists()
    _, name, ids, right, block = next(quality.answers(1))
    assert (name, block, ids.shape[1]) == ("recall", 16, 896)
    assert right(ids).numel() == 64 and not bool(right(ids).any())
