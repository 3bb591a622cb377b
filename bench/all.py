"""Every number in bench/results and RESULTS.md by one command, most important first.

    PYTHONPATH=python python bench/all.py --out bench/results/DATE-MACHINE [--quick] [--resume]

Each bench runs in a process of its own with a limit of time and leaves its JSON or table as it
goes, so a run that is cut is still useful; --resume goes on with what is missing. What was left
out and why is printed at the end and stands in run.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import report
from stages import STAGES, Stage

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def short(path: Path) -> str:
    """As one would type it at the root of the checkout, where there is such a way."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def command(stage: Stage, out: Path, quick: bool, device: str) -> list[str]:
    """What runs a stage, from the root of the checkout."""
    parts = [short(HERE / stage.file)]
    if stage.kind == "rows":
        parts += ["--json", short(stage.result(out)), "--device", device]
        parts += ["--seconds", f"{0.8 * stage.limit(quick):g}"]
        parts += ["--quick"] * quick
        if stage.row_seconds and not quick:
            parts += ["--row-seconds", str(stage.row_seconds)]
    return parts + [part.format(out=short(out)) for part in stage.options(quick)]


def finished(stage: Stage, out: Path, log: dict) -> bool:
    """Whether an earlier run has got through this stage."""
    return log.get(stage.name, {}).get("state") == "ok" and stage.result(out).exists()


def run(stage: Stage, out: Path, quick: bool, device: str, left: float) -> dict:
    """Runs a stage within its limit and what is left of the whole; what came of it."""
    limit, began = min(stage.limit(quick), left), time.perf_counter()
    parts = command(stage, out, quick, device)
    said, errors = (out / "logs" / f"{stage.name}.{kind}" for kind in ("out", "err"))
    said.parent.mkdir(exist_ok=True)
    with said.open("w") as stdout, errors.open("w") as stderr:
        try:
            done = subprocess.run(
                [sys.executable, *parts], stdout=stdout, stderr=stderr, timeout=limit, cwd=ROOT
            )
            state = "ok" if done.returncode == 0 else f"failed with status {done.returncode}"
        except subprocess.TimeoutExpired:
            state = f"cut after {limit:.0f} s"
    text = said.read_text(errors="replace")
    if stage.kind == "table" and "failed" not in state:  # what it prints is the table
        cut = "" if state == "ok" else f" ({state})"
        line = f"`python {' '.join(parts)}`{cut}"
        stage.result(out).write_text(f"# {stage.title}\n\n{line}\n\n{fenced(text)}")
    if state == "ok":
        said.unlink(), errors.unlink()
    return {"state": state, "seconds": round(time.perf_counter() - began, 1)}


def fenced(text: str) -> str:
    """The circumstances that a bench prints first as a block of code, its tables as they are."""
    facts, blank, rest = text.partition("\n\n")
    return f"```\n{facts}\n```\n\n{rest}" if blank and "|" not in facts else text


def folders(out: Path) -> list[Path]:
    """All results of this checkout, the latest first; elsewhere just these."""
    if out.parent != HERE / "results":
        return [out]
    return sorted((folder for folder in out.parent.iterdir() if folder.is_dir()), reverse=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--resume", action="store_true", help="leave what --out already has")
    parser.add_argument("--only", nargs="*", default=[], help="names of stages")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing after this time")
    parser.add_argument("--report", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    began, record = time.perf_counter(), out / "run.json"
    log = json.loads(record.read_text()) if args.resume and record.exists() else {}
    try:
        for stage in STAGES:
            wanted = not args.only or stage.name in args.only
            if args.device not in stage.devices or not wanted or not stage.limit(args.quick):
                continue
            left = 60 * args.minutes - (time.perf_counter() - began)
            if args.resume and finished(stage, out, log):
                continue
            if left < 5:
                log[stage.name] = {"state": f"not begun after {args.minutes:g} minutes"}
            else:
                log[stage.name] = run(stage, out, args.quick, args.device, left)
            record.write_text(json.dumps(log, indent=1) + "\n")
            print(f"{stage.name:18} {log[stage.name]}", flush=True)
    finally:
        if (out / "logs").exists() and not any((out / "logs").iterdir()):
            (out / "logs").rmdir()
        report.write(folders(out), args.report)
    bad = [name for name, entry in log.items() if entry["state"] != "ok"]
    print(f"{time.perf_counter() - began:.0f} s; not complete: {', '.join(bad) or 'nothing'}")
    return int(any("failed" in log[name]["state"] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
