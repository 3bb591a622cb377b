"""Every unmasking rule on held-out puzzles of the built-in models, against one token per step.

    PYTHONPATH=python python bench/bench_rules.py --kinds sudoku4-0 --out bench/results/DIR

writes rules-KIND.json; with --table it turns all such files of DIR into rules.md and rules.png,
with --chooser it prints the table of docs/diffusion/chooser.md.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import rules_table
from kinds import KINDS, Kind
from rules import every
from tokenburst import zoo
from tokenburst.zoo import sudoku

BATCH = 64  # puzzles decoded together: what a forward makes of them fits into the caches
TRAINED = Path(__file__).resolve().parents[1] / "build" / "trained"


def measure(
    kind: Kind, count: int, folder: Path, only: list[str] | None = None, steps: int = 0
) -> list[dict]:
    """The rows of one kind of puzzle; see `rules.every`."""
    model, prompt = zoo.load(kind.model), zoo.prompt_ids(kind.model)
    questions, _ = kind.puzzles(count, seed=2, split="test")
    ids = torch.cat([prompt.expand(count, -1), questions], 1)
    parts, rows = list(zip(ids.split(BATCH), torch.arange(count).split(BATCH), strict=True)), []
    for rule, fill in every(kind, folder, steps).items():
        if only and not any(part in rule for part in only):
            continue
        began = time.perf_counter()
        filled, forwards = zip(*(fill(model, *part) for part in parts), strict=True)
        seconds = time.perf_counter() - began
        solved = sudoku.is_solved(torch.cat(filled)[:, len(prompt) :], questions)
        rows.append(
            {
                "rule": rule,
                "accuracy": round(float(solved.float().mean()), 4),
                "forwards": round(sum(forwards) / count, 2),
                "seconds": round(seconds, 2),
            }
        )
        print(kind.label, rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = {kind.label: kind for kind in KINDS}
    parser.add_argument("--kinds", nargs="*", choices=list(known), default=list(known))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of rules")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--trained", type=Path, default=TRAINED, help="keeps what some rules need trained"
    )
    parser.add_argument("--training", type=int, default=0, help="steps of that, 0: as many as help")
    parser.add_argument("--table", action="store_true", help="only write rules.md and rules.png")
    parser.add_argument("--chooser", action="store_true", help="only print the chooser's table")
    args = parser.parse_args()
    if args.chooser:
        print(rules_table.chooser(args.out))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if args.table:
        rules_table.write(args.out)
        return
    for kind in map(known.get, args.kinds):
        result = {
            "model": kind.model,
            "givens": kind.givens,
            "free": kind.free,
            "count": args.count,
            "command": f"PYTHONPATH=python python bench/bench_rules.py --kinds {kind.label} "
            f"--count {args.count} --out {args.out}",
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": measure(kind, args.count, args.trained, args.only, args.training),
        }
        (args.out / f"rules-{kind.label}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
