"""The bench files: every row's check passes, and the harness writes the rows it promises."""

import importlib
import json
import sys
import time
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


@pytest.fixture
def toy(monkeypatch):
    """The harness with known rates and a bench file of one row."""
    harness = importlib.import_module("harness")
    x = torch.ones(1000)

    def cases(device):
        baselines = {"sum twice": lambda: (x.sum(), x.sum()), "sort": lambda: x.sort()}
        yield harness.Case("toy", "[1000] fp32", x.sum, baselines, lambda: None, harness.nbytes(x))

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--row-seconds", "0.1", *options])
        harness.main(cases)

    for module in (harness, importlib.import_module("machine")):
        for name in ("read_rate", "read_rate_now"):
            monkeypatch.setattr(module, name, lambda *args: 1e4)
        monkeypatch.setattr(module, "flop_rate", lambda *args: 1e5)
    return run


def test_harness_writes_rows(toy, tmp_path, capsys):
    file = tmp_path / "rows.json"
    toy("--json", str(file))
    run = json.loads(file.read_text())
    assert {"date", "command", "revision", "cpu", "threads", "load", "torch"} <= run["meta"].keys()
    (row,) = run["rows"]
    assert (row["op"], row["case"], row["bound_us"]) == ("toy", "[1000] fp32", 0.4)
    assert row["cache"] == "warm" and row["baseline"] in row["baselines"]
    assert row["low"] <= row["us"] <= row["high"]
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["baseline_us"] == min(b["us"] for b in row["baselines"].values())
    assert "[1000] fp32" in capsys.readouterr().out


def test_no_row_begins_after_the_time(toy, tmp_path, capsys):
    toy("--json", str(tmp_path / "rows.json"), "--seconds", "0")
    assert "1 rows left out" in capsys.readouterr().out
    assert not (tmp_path / "rows.json").exists()


def test_rows_go_on_where_a_baseline_or_a_row_fails(monkeypatch, toy, tmp_path, capsys):
    harness, x = importlib.import_module("harness"), torch.ones(10)

    def refuses():
        raise RuntimeError("no such dtype")

    def differs():
        raise AssertionError("ours differs")

    def cases(device):
        yield harness.Case("toy", "bad", x.sum, {"sum": x.sum}, differs)
        yield harness.Case("toy", "alone", x.sum, {"other": refuses}, lambda: None)
        yield harness.Case("toy", "good", x.sum, {"other": refuses, "sum": x.sum}, lambda: None)

    file = tmp_path / "rows.json"
    options = ["bench", "--quick", "--row-seconds", "0.1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", options)
    with pytest.raises(SystemExit, match="2 rows failed"):
        harness.main(cases)
    run = json.loads(file.read_text())
    assert [row["case"] for row in run["rows"]] == ["good"] and len(run["failed"]) == 2
    assert run["rows"][0]["refused"] == {"other": "RuntimeError: no such dtype"}
    assert "! toy alone" in capsys.readouterr().out


def test_a_wrong_result_is_not_timed():
    harness = importlib.import_module("harness")

    def wrong():
        raise AssertionError("ours differs")

    case = harness.Case("toy", "x", pytest.fail, {"same": pytest.fail}, wrong)
    with pytest.raises(AssertionError, match="ours differs"):
        harness.measure(case, CPU, 0.1)


def test_turns_interleave_and_prepare_runs_before_each_call():
    timing, order = importlib.import_module("timing"), []
    calls = [lambda c=c: order.append(c) or time.sleep(3e-3) for c in "ab"]
    turns = timing.interleaved(calls, lambda: order.append("."), CPU, 0.0, cold=True)
    assert [len(t) for t in turns] == [3, 3]
    assert "".join(order) == ".a.a.b.b" + 3 * ".a.b"


def test_statistics_of_turns():
    timing = importlib.import_module("timing")
    got = timing.summary([[1.0, 2.0], [3.0, 4.0, 5.0]])
    assert got == {"us": 3.0, "low": 2.0, "high": 4.0, "calls": 5}
    assert timing.summary([[7.0]]) == {"us": 7.0, "low": 7.0, "high": 7.0, "calls": 1}
    slow_turn = timing.ratio([[1.0], [10.0], [1.0]], [[2.0], [20.0], [2.0]])
    assert slow_turn == {"ratio": 2.0, "ratio_low": 2.0, "ratio_high": 2.0}


def test_peak_memory_counts_what_a_call_takes(monkeypatch, tmp_path):
    memory = importlib.import_module("memory")
    status, clear = tmp_path / "status", tmp_path / "clear_refs"
    monkeypatch.setattr(memory, "STATUS", status)
    monkeypatch.setattr(memory, "CLEAR", clear)
    status.write_text("VmHWM:\t9000 kB\nVmRSS:\t4000 kB\n")

    def call():
        assert clear.read_text() == "5"  # else an earlier peak would count
        status.write_text("VmHWM:\t70560 kB\nVmRSS:\t4000 kB\n")

    assert memory.peak_mb(call, lambda: None, CPU) == 65.0


def test_peak_memory_is_none_where_the_system_does_not_say(monkeypatch, tmp_path):
    memory = importlib.import_module("memory")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    assert memory.peak_mb(lambda: None, lambda: None, CPU) is None


ROW = {"device": "cpu", "op": "toy", "case": "x", "us": 100.0, "low": 95.0, "high": 105.0}


@pytest.mark.parametrize(
    ("us", "low", "high", "said"),
    [
        (100, 95, 105, "same"),
        (112, 106, 118, "slower"),
        (112, 104, 118, "same"),  # within the spread
        (102, 101, 103, "same"),  # less than counts
        (88, 82, 94, "faster"),
        (88, 82, 96, "same"),
    ],
)
def test_verdicts(us, low, high, said):
    compare = importlib.import_module("compare")
    assert compare.verdict(ROW, ROW | {"us": us, "low": low, "high": high}, 0.03) == said


def test_where_the_alternative_changed_alike_it_is_unclear():
    compare = importlib.import_module("compare")
    theirs = {"us": 200.0, "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1}
    row = ROW | {"baseline": "eager", "baselines": {"eager": theirs}}
    slow = row | {"us": 150.0, "low": 140.0, "high": 160.0}
    assert compare.verdict(row, slow, 0.03) == "unclear"
    slow["baselines"] = {"eager": theirs | {"ratio": 1.33, "ratio_low": 1.3, "ratio_high": 1.4}}
    assert compare.verdict(row, slow, 0.03) == "slower"


def test_compare_reports_slower_rows_and_other_machines(tmp_path, capsys, monkeypatch):
    compare = importlib.import_module("compare")
    row = ROW | {"baselines": {"eager": {"us": 200.0}}}
    slow = row | {"us": 150.0, "low": 140.0, "high": 160.0, "baselines": {"eager": {"us": 220.0}}}
    new = row | {"case": "y"}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, cpu, rows in zip(files, "AB", ([row], [slow, new]), strict=True):
        file.write_text(json.dumps({"meta": {"cpu": cpu, "revision": cpu}, "rows": rows}))
    for options, status in (((), 0), (("--fail",), 1)):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, files), *options])
        assert compare.main() == status
        text = capsys.readouterr().out
        for part in (
            "A (build ?) -> B",
            "cpu differs",
            "+10.0%",
            "+50.0%  slower",
            "only after",
            "1 slower",
        ):
            assert part in text
