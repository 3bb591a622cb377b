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

HERE = Path(__file__).parent


def command(stage: Stage, out: Path, quick: bool, device: str) -> list[str]:
    """What runs a stage."""
    parts = [sys.executable, str(HERE / stage.file)]
    if stage.kind == "rows":
        parts += ["--json", str(out / f"{stage.name}.json"), "--device", device]
        parts += ["--seconds", str(0.8 * stage.limit(quick))]
        parts += ["--quick"] * quick
    parts += [part.format(out=out) for part in stage.quick_args if quick]
    parts += [part.format(out=out) for part in stage.args if not quick]
    if stage.row_seconds and not quick:
        parts += ["--row-seconds", str(stage.row_seconds)]
    return parts


def finished(stage: Stage, out: Path, log: dict) -> bool:
    """Whether an earlier run has got through this stage."""
    return log.get(stage.name, {}).get("state") == "ok" and stage.result(out).exists()


def run(stage: Stage, out: Path, quick: bool, device: str, left: float) -> dict:
    """Runs a stage within its limit and what is left of the whole; what came of it."""
    limit = min(stage.limit(quick), left)
    began = time.perf_counter()
    with open(out / f"{stage.name}.log", "w") as log:
        try:
            parts = command(stage, out, quick, device)
            print(f"{stage.name:16} ...", end="\r", flush=True)
            done = subprocess.run(
                parts, stdout=log, stderr=subprocess.STDOUT, timeout=limit, cwd=HERE.parent
            )
            state = "ok" if done.returncode == 0 else f"failed with status {done.returncode}"
        except subprocess.TimeoutExpired:
            state = f"cut after {limit:.0f} s"
    text = (out / f"{stage.name}.log").read_text(errors="replace")
    if stage.kind == "table" and state == "ok":  # what it prints is the table
        shown = " ".join(["python", *parts[1:]]).replace(f"{HERE.parent}/", "")
        stage.result(out).write_text(f"# {stage.title}\n\n`{shown}`\n\n{text}")
    return {"state": state, "seconds": round(time.perf_counter() - began, 1)}


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
            if args.device not in stage.devices or (args.only and stage.name not in args.only):
                continue
            left = 60 * args.minutes - (time.perf_counter() - began)
            if args.resume and finished(stage, out, log):
                continue
            if left < 5:
                log[stage.name] = {"state": f"not begun after {args.minutes:g} minutes"}
            else:
                log[stage.name] = run(stage, out, args.quick, args.device, left)
            record.write_text(json.dumps(log, indent=1) + "\n")
            print(f"{stage.name:16} {log[stage.name]}", flush=True)
    finally:
        report.write([out], args.report)
    bad = [name for name, entry in log.items() if entry["state"] != "ok"]
    print(f"{time.perf_counter() - began:.0f} s; not complete: {', '.join(bad) or 'nothing'}")
    return int(any("failed" in log[name]["state"] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
