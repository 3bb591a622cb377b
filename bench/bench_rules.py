"""Every unmasking rule on held-out puzzles of the built-in models, against one token per step.

    PYTHONPATH=python python bench/bench_rules.py --models sudoku4 --out bench/results/DIR

writes rules-MODEL-GIVENS.json; with --table it turns all such files of DIR into rules.md and
rules.png.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from tokenburst import zoo
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling
from tokenburst.zoo import filters, sudoku

GIVENS = {"sudoku4": 0, "sudoku6": 14}  # 0: none to spare


def rules(name: str, cells: int, givens: int) -> dict[str, tuple]:
    """Policies by name, with the decoding options that belong to them."""
    cool = {"temperature": 0.3, "sampling": Sampling(top_p=0.95)}
    spare = int(zoo.prompt_ids(name)[0])  # no puzzle has an end, and none this token
    spans = givens > 0 and (cells - givens) % 2 == 0  # as many masks in each puzzle, in pairs
    return {
        "one per step": (u.LowConfidence(), {}),
        "random order": (u.LowConfidence(ranking="random"), {}),
        "LLaDA, 2 per step": (u.LowConfidence(tokens_per_step=2), {}),
        "LLaDA, 4 per step": (u.LowConfidence(tokens_per_step=4), {}),
        "Dream, entropy": (u.Dream(8, "entropy"), {}),
        "Dream, maskgit_plus": (u.Dream(8, "maskgit_plus"), {}),
        "Dream, topk_margin": (u.Dream(8, "topk_margin"), {}),
        "Dream, origin": (u.Dream(8, "origin"), {}),
        "DiffuCoder recipe": (u.Dream(8, "entropy"), cool),
        "Dimple": (u.Dimple(0.95, cells), {}),
        "Fast-dLLM, threshold 0.998": (u.Threshold(0.998), {}),
        "Fast-dLLM, threshold 0.995": (u.Threshold(0.995), {}),
        "Fast-dLLM, threshold 0.99": (u.Threshold(0.99), {}),
        "Fast-dLLM, threshold 0.98": (u.Threshold(0.98), {}),
        "Fast-dLLM, threshold 0.95": (u.Threshold(0.95), {}),
        "Fast-dLLM, threshold 0.9": (u.Threshold(0.9), {}),
        "Fast-dLLM, threshold 0.8": (u.Threshold(0.8), {}),
        "Fast-dLLM, threshold 0.7": (u.Threshold(0.7), {}),
        "Fast-dLLM, factor 1": (u.Factor(1.0), {}),
        "Fast-dLLM, factor 0.5": (u.Factor(0.5), {}),
        "Fast-dLLM, factor 0.1": (u.Factor(0.1), {}),
        "dParallel, entropy 0.05": (u.Threshold(0.05, "entropy"), {}),
        "dParallel, entropy 0.3": (u.Threshold(0.3, "entropy"), {}),
        "EB-sampler 0.1": (u.EntropyBudget(0.1), {}),
        "EB-sampler 0.5": (u.EntropyBudget(0.5), {}),
        "Prophet, whole block": (u.Prophet(), {}),
        "Prophet, last 4": (u.Prophet(answer=4), {}),
        "CreditDecoding": (u.Credit(u.Threshold(0.9)), {}),
        "LocalLeap": (u.LocalLeap(), {}),
        "ASS": (u.Ascending(), {}),
        "EOSER + ASS, no ends": (u.EosDamping(u.Ascending(), (spare,), 0.01), {}),
        "SDAR dynamic": (u.sdar_dynamic(0.85), {}),
        "LLaDA2": (u.llada2(), {}),
        "LLaDA2.1, editing": (u.Editing(u.llada2(0.7)), {}),
        "RCR, 8 steps": (u.RunningConfidence(8), {}),
        "RCR, 4 steps": (u.RunningConfidence(4), {}),
        "ReMDM, cap": (u.ReMDM(16, eta=0.02), {}),
        "ReMDM, loop": (u.ReMDM(16, "loop", eta=0.02), {}),
        "WINO": (u.Wino(), {}),
        "WINO, shadows apart": (u.Wino(apart=True), {}),
        "KLASS": (u.Stable(), {}),
        **({"MAGNeT, spans of 2": (u.SpanMasking(8, span=2), {})} if spans else {}),
        "SlowFast": (u.SlowFast(), {}),
        "Learn2PD filter": (u.Learned(filters.train(name, 200, givens)), {}),
    }


def measure(name: str, count: int, givens: int) -> list[dict]:
    model, prompt = zoo.load(name), zoo.prompt_ids(name)
    side = int(name.removeprefix("sudoku"))
    questions, _ = sudoku.puzzles(side, count, seed=2, split="test", givens=givens)
    ids = torch.cat([prompt.expand(count, -1), questions], 1)
    rows = []
    for rule, (policy, options) in rules(name, side * side, givens).items():
        start = time.perf_counter()
        out = DiffusionDecoder(model, policy).infill(ids, **options)
        seconds = time.perf_counter() - start
        solved = sudoku.is_solved(out.sequences[:, len(prompt) :], questions)
        rows.append(
            {
                "rule": rule,
                "accuracy": round(float(solved.float().mean()), 4),
                "forwards": round(sum(map(sum, out.stats.steps)) / count, 2),
                "batch_forwards": out.stats.forwards,
                "seconds": round(seconds, 2),
            }
        )
        print(name, rows[-1], flush=True)
    return rows


def table(folder: Path) -> None:
    """rules.md and rules.png of all results in a folder."""
    import matplotlib.pyplot as plt

    files = sorted(folder.glob("rules-*.json"))
    results = [json.loads(file.read_text()) for file in files]
    lines = ["# Unmasking rules on held-out puzzles", ""]
    figure, axes = plt.subplots(1, len(results), figsize=(6.5 * len(results), 5), squeeze=False)
    for result, axis in zip(results, axes[0], strict=True):
        base, givens = result["rows"][0], result["givens"] or "few"
        lines += [
            f"## {result['model']}, {result['count']} puzzles with {givens} givens "
            f"({result['machine']}, {result['threads']} threads, torch {result['torch']})",
            "",
            "Forwards are means per puzzle. Seconds are of all puzzles as one batch, on a machine "
            "that did other work beside it.",
            "",
            "| rule | solved % | forwards | fewer | seconds |",
            "|---|---|---|---|---|",
        ]
        for row in result["rows"]:
            lines.append(
                f"| {row['rule']} | {100 * row['accuracy']:.1f} | {row['forwards']:.2f} | "
                f"{base['forwards'] / row['forwards']:.1f}x | {row['seconds']:.2f} |"
            )
            axis.plot(row["forwards"], 100 * row["accuracy"], "o", ms=4)
            axis.annotate(row["rule"], (row["forwards"], 100 * row["accuracy"]), fontsize=5)
        lines += ["", f"`{result['command']}`", ""]
        axis.set(xscale="log", xlabel="forwards per puzzle", ylabel="solved %")
        axis.set_title(f"{result['model']}, {givens} givens")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "rules.png", dpi=110)
    (folder / "rules.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(GIVENS))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--givens", type=int, help="digits of a puzzle; 0: none to spare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only write rules.md and rules.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [] if args.table else args.models:
        givens = GIVENS[name] if args.givens is None else args.givens
        result = {
            "model": name,
            "count": args.count,
            "givens": givens,
            "command": f"PYTHONPATH=python python bench/bench_rules.py --models {name} "
            f"--count {args.count} --givens {givens} --out {args.out}",
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": measure(name, args.count, givens),
        }
        (args.out / f"rules-{name}-{givens}.json").write_text(json.dumps(result, indent=1) + "\n")
    if args.table:
        table(args.out)


if __name__ == "__main__":
    main()
