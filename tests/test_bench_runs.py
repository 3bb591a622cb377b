"""The one command: its stages, its report, its plots, and the GPU run where no GPU is."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Importable, and on one thread: two that wait for each other are slow on a busy machine."""
    monkeypatch.syspath_prepend(BENCH)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(monkeypatch):
    """Runs the main of a bench file in this process, with rates that need no measuring."""
    machine, harness = (importlib.import_module(name) for name in ("machine", "harness"))
    for module in (machine, harness):
        for name in ("read_rate", "read_rate_now"):
            monkeypatch.setattr(module, name, lambda *args: 1e4)
        monkeypatch.setattr(module, "flop_rate", lambda *args: 1e5)

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"bench/{name}.py", *map(str, options)])
        return importlib.import_module(name).main()

    return run


def test_every_stage_is_a_file_with_a_place_for_its_results():
    stages = importlib.import_module("stages").STAGES
    for stage in stages:
        assert (BENCH / stage.file).exists(), stage.name
        assert 0 <= stage.quick <= stage.seconds and stage.kind in ("rows", "table", "own")
    assert len({stage.name for stage in stages}) == len(stages)
    assert sum(stage.quick for stage in stages) <= 15 * 60
    files = {stage.file for stage in stages}
    ops = {p.name for p in BENCH.glob("bench_*.py") if "def cases(" in p.read_text()}
    assert ops <= files, "a bench file of ops that the one command leaves out"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_stage_has_a_whole_command(device):
    every, stages = importlib.import_module("all"), importlib.import_module("stages").STAGES
    for stage in stages:
        for quick in (False, True):
            parts = every.command(stage, ROOT / "bench" / "results" / "x", quick, device)
            assert parts[0] == f"bench/{stage.file}" and not any("{" in part for part in parts)
            assert (device in parts) == (stage.kind == "rows")


def test_shapes_are_those_of_the_published_configurations():
    shapes = importlib.import_module("shapes")
    for shape in shapes.MODELS.values():
        assert shape.heads * shape.head_dim == shape.hidden
        assert shape.heads % shape.kv_heads == 0 and (shape.mask or 0) < shape.vocab
    assert {s.vocab for s in shapes.MODELS.values()} == {32000, 128256, 126464, 152064}


def test_rows_of_real_models_are_right_where_they_are_small():
    models = importlib.import_module("bench_models")
    with torch.inference_mode():
        names = []
        for case in (*models.small(CPU, 2), *models.attention(CPU, (64,))):
            case.prepare()
            case.check()
            names.append((case.op, case.name))
    assert len(set(names)) == len(names)


def test_published_loops_find_the_texts_of_our_decoder():
    import tokenburst as tb
    from tokenburst import zoo
    from tokenburst.zoo import sudoku

    loops = importlib.import_module("loops")
    model, prompt = zoo.load("sudoku4"), zoo.prompt_ids("sudoku4")
    puzzle, _ = sudoku.puzzles(4, 1, seed=3, split="test", givens=0)
    ids = torch.cat([prompt[None], puzzle], 1)
    mask = model.config.mask_token_id
    for options, policy in (
        ({"count": 1}, tb.LowConfidence()),
        ({"threshold": 0.9}, tb.Threshold(0.9)),
    ):
        theirs, forwards = loops.unmasking_loop(model, mask, **options)(ids)
        ours = tb.DiffusionDecoder(model, policy).infill(ids)
        assert torch.equal(ours.sequences, theirs) and ours.stats.forwards == forwards


def test_recycling_loop_accepts_what_is_right():
    baselines = importlib.import_module("baselines")
    from tokenburst.decoders.templates import TreeTemplate

    adjacency = torch.tensor([[0, 0], [2, 3], [3, 1], [1, 4], [5, 5], [0, 2]])
    adjacency = torch.nn.functional.pad(adjacency, (0, 6))
    tree = TreeTemplate((-1, 0, 0, 1, 1, 2), (0, 0, 1, 0, 1, 0))
    loop = baselines.RecyclingLoop(adjacency, tree)
    tokens = loop.draft(torch.tensor([1]))
    assert tokens.tolist() == [1, 2, 3, 3, 1, 1]
    logits = torch.zeros(6, 9)
    logits[[0, 2], [3, 1]] = 1.0  # node 2, then node 5
    logits[5, 7] = 1.0
    cache = torch.arange(10.0).view(1, 1, 10, 1)
    accepted, following = loop.after(logits, tokens, [cache], 4)
    assert accepted.tolist() == [0, 2, 5] and following == 7
    assert cache.flatten()[4:7].tolist() == [4.0, 6.0, 9.0]
    assert 7 in loop.adjacency[1, :1].tolist()  # the last of equal tokens wins


def test_growth_fits_its_slopes(bench, tmp_path, capsys):
    growth = importlib.import_module("growth")
    assert growth.slope([1, 2, 4, 8], [9.0, 2.0, 8.0, 32.0]) == pytest.approx(2.0)
    file = tmp_path / "growth.json"
    bench("growth", "--quick", "--only", "tree_build N", "--json", file)
    (row,) = json.loads(file.read_text())["rows"]
    assert [point["size"] for point in row["points"]] == [16, 32, 64] and row["exponent"] == 1
    assert "tree_build" in capsys.readouterr().out


def test_a_tree_pays_what_its_cost_leaves(bench, tmp_path, monkeypatch):
    tree_cost = importlib.import_module("tree_cost")
    free = list(tree_cost.gains([{"nodes": n, "us": 10.0} for n in (1, 4, 16)]))
    assert all(gain["tree_nodes"] == 16 == gain["chain_nodes"] for gain in free)
    dear = list(tree_cost.gains([{"nodes": n, "us": 10.0 * n} for n in (1, 16)]))
    assert all(gain["tree_speedup"] == 1.0 for gain in dear)
    half = next(gain for gain in free if gain["acceptance"] == 0.5)
    assert half["chain_tokens"] == pytest.approx(2, abs=1e-3)
    monkeypatch.setattr(tree_cost, "SIZES", (1, 2, 4, 8))
    small = lambda device, quick: [next(tree_cost.zoo_only(64))]  # noqa: E731
    monkeypatch.setattr(tree_cost, "models", small)
    monkeypatch.setattr(tree_cost, "SECONDS", (0.1, 0.1))
    file = tmp_path / "cost.json"
    bench("tree_cost", "--quick", "--json", file)
    run = json.loads(file.read_text())
    assert [row["nodes"] for row in run["rows"]] == [1, 4] and run["speedups"]


def test_generations_compete(bench, monkeypatch):
    monkeypatch.setattr("tokenburst.decoders.autotree.SIZES", (4, 8))
    generate = importlib.import_module("bench_generate")
    rows = generate.boards(CPU, "sudoku4", 1, 1)
    assert [row["same_text"] for row in rows] == [1] * len(rows)
    assert rows[0]["tokens_per_forward"] == 1.0 and rows[0]["speedup"] == 1.0
    monkeypatch.setattr(generate, "WARM", 2)
    rows = generate.causal(CPU, 1, 1, 1, 8)
    assert len(rows) == 10 and all(row["same_text"] == 1 for row in rows)
    rows = generate.causal(CPU, 2, 1, 1, 8)
    assert len(rows) == 8 and all(row["same_text"] == row["texts"] == 2 for row in rows)


def test_a_timed_text_is_never_known(monkeypatch):
    """Cold: nothing but the costs of trees; warm: other texts; both again before each run."""
    import tokenburst as tb
    from tokenburst import zoo

    monkeypatch.setattr("tokenburst.decoders.autotree.SIZES", (4, 8))
    competing = importlib.import_module("competing")
    model, tokenizer = zoo.load("pycode"), zoo.tokenizer("pycode")
    seen, timed = (tokenizer(p["text"], return_tensors="pt") for p in zoo.prompts("pycode")[:2])
    for start in "cold", "warm":
        drafter = tb.TokenRecycling()
        decoder = tb.TreeDecoder(model, drafter)
        method = competing.drafting(decoder, 16, [seen], start)
        forwards, known = [], []
        for _ in range(3):
            method.forget()
            matrix = decoder.drafter.adjacency
            known.append(0 if matrix is None else int((matrix[:, 0] >= 0).sum()))
            forwards.append(method.run(timed)[1])
        assert len(set(forwards)) == 1 and len(set(known)) == 1
        assert (known[0] > 0) == (start == "warm") and decoder._sizer._cost


def test_repeated_counts_runs_of_four():
    repeated = importlib.import_module("competing").repeated
    assert repeated(torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4]])) == pytest.approx(1 / 5)
    assert repeated(torch.tensor([[1, 2, 3, 4, 5, 0, 0]])) == 0


RUN = {
    "system": "S", "cpu": "C", "cores": 2, "mhz": "1", "governor": "g", "last_level_cache_mb": 32,
    "threads": 2, "load": 0.1, "steal": 0.0, "tokenburst": "0", "isa": "avx2", "revision": "abc",
    "torch": "2", "torch_isa": "X", "python": "3", "date": "2026-01-02T00:00:00", "device": "cpu",
    "command": "python bench/x.py", "read_gbps": 1.0, "fp32_tflops": 1.0,
}  # fmt: skip
BASE = {"us": 50.0, "low": 49.0, "high": 51.0, "ratio": 5.0, "ratio_low": 4.9, "ratio_high": 5.1}
ROW = BASE | {
    "op": "vocab_stats", "case": "[64,126464] k=1 fp32", "device": "cpu", "cache": "cold",
    "us": 10.0, "spread": 0.1, "bound_us": 8.0, "of_bound": 0.8, "peak_mb": 0.0,
    "baseline": "argmax + softmax", "baseline_us": 50.0,
    "baselines": {"argmax + softmax": BASE | {"peak_mb": 60.0}},
}  # fmt: skip


def write_runs(folder):
    """A folder of results with one row of each kind."""
    generate = {
        "model": "m", "batch": 1, "method": "plain", "tokens_per_second": 7.0, "slowest": 6.0,
        "fastest": 8.0, "tokens_per_forward": 1.5, "ms_per_forward": 2.0, "speedup": 1.0,
        "speedup_low": 0.9, "speedup_high": 1.1, "repeated": 0.5, "same_text": 1, "texts": 1,
        "peak_mb": None,
    }  # fmt: skip
    cost = [{"model": "m", "batch": 1, "nodes": n, "us": 1e3 * n} for n in (1, 4)]
    gain = {"model": "m", "batch": 1, "acceptance": 0.5, "tree_nodes": 4, "tree_tokens": 2.0}
    gain |= {"tree_speedup": 1.5, "chain_nodes": 4, "chain_speedup": 1.4}
    points = [{"size": n, "us": float(n)} for n in (1, 2, 4)]
    growth = {"op": "tree_build", "axis": "N", "others": "B=1", "exponent": 1, "slope": 1.0}
    for name, more in {
        "vocab": {"rows": [ROW]},
        "generate": {"kind": "generate", "rows": [generate]},
        "cost": {
            "kind": "tree_cost",
            "rows": [row | {"low": row["us"], "high": row["us"]} for row in cost],
            "speedups": [gain, gain | {"acceptance": 0.6}],
        },
        "growth": {"kind": "growth", "rows": [growth | {"points": points}]},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps({"meta": RUN, **more}))
    (folder / "rules-x.json").write_text('{"rows": []}')
    (folder / "drafters.md").write_text("# Drafters\n")


def test_report(bench, tmp_path):
    folder = tmp_path / "results" / "day"
    folder.mkdir(parents=True)
    write_runs(folder)
    bench("report", folder, "--to", tmp_path / "R.md", "--no-plots")
    text = (tmp_path / "R.md").read_text()
    for part in (
        "| `vocab_stats` | [64,126464] k=1 fp32 | cold | 10.0 | 10% | 80% | 5.00x |",
        "| `vocab_stats` | 8x the eager step, fp32 | 8.00x | 0 of 1 | 5.00x",
        "| m | 1 | plain | 7 | 6 to 8 | 1.50 |",
        "| `tree_build` | N | B=1 | 1.00 |",
        "(results/day/drafters.md)",
        "`python bench/x.py` (abc, load 0.1)",
        "0 / 60",
    ):
        assert part in text
    assert "png" not in text


def test_plots(bench, tmp_path):
    write_runs(tmp_path)
    bench("report", tmp_path, "--to", tmp_path / "R.md")
    for name in ("ops", "generate", "tree_cost", "growth"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert f"({'.'}/{name}.png)" in (tmp_path / "R.md").read_text()


def test_one_command_keeps_what_a_cut_run_has(bench, tmp_path, monkeypatch, capsys):
    stages, every = importlib.import_module("stages"), importlib.import_module("all")
    script = tmp_path / "toy.py"
    script.write_text("import sys; print('hello'); sys.exit(int(sys.argv[-1]))")
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    make = lambda name, file, seconds, *args: stages.Stage(  # noqa: E731
        name, str(file), seconds, seconds, kind="table", quick_args=args, title="Toy"
    )
    toys = make("good", script, 60, "0"), make("bad", script, 60, "3"), make("slow", slow, 1)
    monkeypatch.setattr(every, "STAGES", toys)
    options = "--out", tmp_path / "out", "--report", tmp_path / "R.md", "--quick"
    assert bench("all", *options) == 1
    log = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [log[toy.name]["state"] for toy in toys] == [
        "ok",
        "failed with status 3",
        "cut after 1 s",
    ]
    assert "# Toy" in (tmp_path / "out" / "good.md").read_text()
    assert "not complete: bad, slow" in capsys.readouterr().out
    assert "good.md" in (tmp_path / "R.md").read_text()
    monkeypatch.setattr(every, "STAGES", toys[:2])
    script.write_text("print('again')")
    assert bench("all", *options, "--resume") == 0
    assert "hello" in (tmp_path / "out" / "good.md").read_text()
    assert "again" in (tmp_path / "out" / "bad.md").read_text()


def test_gpu_run_without_a_gpu_says_what_it_leaves_out():
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py"], capture_output=True, text=True, cwd=ROOT, env=hidden
    )
    assert done.returncode == 0
    for part in ("no GPU", "pytest -m cuda", "vocab", "tree_cost", "Nothing was measured"):
        assert part in done.stdout
