"""RESULTS.md and the plots of one or more results folders, from their JSON files alone.

python bench/report.py bench/results/DATE-MACHINE ... [--to bench/RESULTS.md] [--no-plots]
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from machine import describe
from targets import targets

HERE = Path(__file__).parent


def table(head: tuple[str, ...], lines: list[list[str]]) -> list[str]:
    rule = "|" + "---|" * len(head)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(c) + " |" for c in lines), ""]


def op_rows(run: dict) -> list[str]:
    head = "op", "case", "cache", "us", "spread", "of bound", "faster", "quartiles"
    lines = []
    for row in run["rows"]:
        peaks = [row["peak_mb"], row["baselines"][row["baseline"]]["peak_mb"]]
        lines.append(
            [
                *(f"`{row['op']}`", row["case"], row["cache"], f"{row['us']:.1f}"),
                *(f"{row['spread']:.0%}", f"{row['of_bound']:.0%}", f"{row['ratio']:.2f}x"),
                f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}",
                f"{row['baseline']}, {row['baseline_us']:.1f} us",
                " / ".join("?" if p is None else f"{p:g}" for p in peaks),
            ]
        )
    return table((*head, "than, which takes", "peak MB ours / theirs"), lines)


def generate_rows(run: dict) -> list[str]:
    head = "model", "batch", "method", "tokens/s", "slowest to fastest", "tokens per forward"
    lines = [
        [
            *(row["model"], str(row["batch"]), row["method"], f"{row['tokens_per_second']:.0f}"),
            *(f"{row['slowest']:.0f} to {row['fastest']:.0f}", f"{row['tokens_per_forward']:.2f}"),
            *(f"{row['ms_per_forward']:.2f}", f"{row['speedup']:.2f}x"),
            f"{row['same_text']} of {row['texts']}",
            "?" if row["peak_mb"] is None else f"{row['peak_mb']:g}",
        ]
        for row in run["rows"]
    ]
    return table((*head, "ms per forward", "speed-up", "same text", "peak MB"), lines)


def tree_rows(run: dict) -> list[str]:
    head = "model", "batch", "first guess right", "best tree", "tokens", "speed-up", "best chain"
    lines = [
        [
            *(row["model"], str(row["batch"]), f"{row['acceptance']:.2f}", str(row["tree_nodes"])),
            *(f"{row['tree_tokens']:.2f}", f"{row['tree_speedup']:.2f}x"),
            *(str(row["chain_nodes"]), f"{row['chain_speedup']:.2f}x"),
        ]
        for row in run["speedups"][::3]
    ]
    cost = [
        [
            *(row["model"], str(row["batch"]), str(row["nodes"]), f"{row['us'] / 1e3:.3f}"),
            f"{row['low'] / 1e3:.3f} to {row['high'] / 1e3:.3f}",
        ]
        for row in run["rows"]
    ]
    return [
        *table(("model", "batch", "n", "T(n), ms", "quartiles"), cost),
        *table((*head, "speed-up of chain"), lines),
    ]


def growth_rows(run: dict) -> list[str]:
    head = "op", "grows with", "while", "slope", "of the work", "us, smallest to largest"
    lines = [
        [
            *(f"`{row['op']}`", row["axis"], row["others"], f"{row['slope']:.2f}"),
            str(row["exponent"]),
            f"{row['points'][0]['us']:.1f} ({row['points'][0]['size']}) to "
            f"{row['points'][-1]['us']:.1f} ({row['points'][-1]['size']})",
        ]
        for row in run["rows"]
    ]
    return table(head, lines)


# kind of a run: title, rows, plot
KINDS: dict[str, tuple[str, Callable, str]] = {
    "ops": ("Ops", op_rows, "ops"),
    "generate": ("Whole generations", generate_rows, "generate"),
    "tree_cost": ("Cost of a tree, worth of a draft", tree_rows, "tree_cost"),
    "growth": ("Growth", growth_rows, "growth"),
}


def read(folder: Path) -> dict[str, dict[str, dict]]:
    """Runs by kind and name; JSON files of another form are left to their own tables."""
    runs: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
    for file in sorted(folder.glob("*.json"), key=lambda f: f.stat().st_mtime):
        run = json.loads(file.read_text())
        if isinstance(run, dict) and "meta" in run and run.get("rows"):
            runs[run.get("kind", "ops")][file.stem] = run
    return runs


def draw(runs: dict[str, dict[str, dict]], folder: Path) -> None:
    """One PNG per kind."""
    import plots

    models = [run for name, run in runs["ops"].items() if name == "models"]
    others = [run for name, run in runs["ops"].items() if name != "models"]
    for name, chosen in (("ops", others), ("models", models)):
        if chosen:
            plots.ops(chosen, folder / f"{name}.png")
    for kind in ("generate", "tree_cost", "growth"):
        for run in runs[kind].values():
            getattr(plots, kind)(run, folder / f"{kind}.png")


def section(folder: Path, base: Path) -> list[str]:
    """Markdown of one folder, links relative to `base`."""
    runs = read(folder)
    every = [run for kind in runs.values() for run in kind.values()]
    link = os.path.relpath(folder, base)
    lines = [f"## {folder.name}", ""]
    if every:
        lines += ["```", *describe(every[0]["meta"]).splitlines(), "```", ""]
    lines += targets([row for run in runs["ops"].values() for row in run["rows"]])
    for kind, (title, rows, plot) in KINDS.items():
        if not runs[kind]:
            continue
        lines += [f"### {title}", ""]
        for picture in (plot, *(["models"] if kind == "ops" else [])):
            if (folder / f"{picture}.png").exists():
                lines += [f"![{title}: {picture}]({link}/{picture}.png)", ""]
        for run in runs[kind].values():
            facts = run["meta"]
            lines += [f"`{facts['command']}` ({facts['revision']}, load {facts['load']})", ""]
            lines += rows(run)
            lines += [f"- failed: {text}" for text in run.get("failed", [])]
    others = sorted(f.name for f in folder.glob("*.md"))
    if others:
        lines += ["### Methods on the built-in models", ""]
        lines += [f"- [{name}]({link}/{name})" for name in others] + [""]
    return lines


def write(folders: list[Path], to: Path, pictures: bool = True) -> None:
    """RESULTS.md of the folders, and their plots where matplotlib is at hand."""
    lines = [
        "# Results",
        "",
        "Written by `bench/report.py` from the JSON files of the folders named below. What the",
        "columns mean: [README.md](README.md). What was tried: [NOTES.md](NOTES.md).",
        "",
    ]
    for folder in folders:
        if pictures:
            try:
                draw(read(folder), folder)
            except ImportError:
                print("no matplotlib, so no plots: pip install matplotlib")
        lines += section(folder, to.resolve().parent)
    to.write_text("\n".join(lines).rstrip() + "\n")
    print(f"wrote {to}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--no-plots", action="store_true")
    args = parser.parse_args()
    write([folder.resolve() for folder in args.folders], args.to, not args.no_plots)


if __name__ == "__main__":
    main()
