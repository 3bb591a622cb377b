"""The bench files: every row's check passes, and the harness writes the rows it promises."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
FILES = sorted(p.stem for p in BENCH.glob("bench_*.py") if "def cases(" in p.read_text())
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)


@pytest.mark.parametrize("file", FILES)
def test_rows_are_right(file):
    names = []
    with torch.inference_mode():
        for case in importlib.import_module(file).cases(CPU):
            case.prepare()
            case.check()
            names.append((case.op, case.name))
    assert names and len(set(names)) == len(names)


def test_every_op_has_a_row():
    from tokenburst import _native

    text = "".join((BENCH / f"{file}.py").read_text() for file in FILES)
    assert [op for op in _native.op_names() if f'"{op}"' not in text] == []


def test_harness_writes_rows(tmp_path, monkeypatch, capsys):
    harness = importlib.import_module("harness")
    x = torch.ones(1000)

    def cases(device):
        baselines = {"sum twice": lambda: (x.sum(), x.sum()), "sort": lambda: x.sort()}
        yield harness.Case("toy", "[1000] fp32", x.sum, baselines, lambda: None, harness.nbytes(x))

    monkeypatch.setattr(harness, "read_rate", lambda device: 1e4)
    monkeypatch.setattr(harness, "flop_rate", lambda device, dtype: 1e5)
    rows_file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--json", str(rows_file)])
    harness.main(cases)
    (row,) = json.loads(rows_file.read_text())
    assert list(row) == [
        "op",
        "case",
        "device",
        "us",
        "baseline",
        "baseline_us",
        "ratio",
        "bound_us",
    ]
    assert (row["op"], row["case"], row["bound_us"]) == ("toy", "[1000] fp32", 0.4)
    assert row["ratio"] == pytest.approx(row["baseline_us"] / row["us"], rel=0.01)
    assert "[1000] fp32" in capsys.readouterr().out
