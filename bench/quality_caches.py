"""What KV caches cost in answers: every cache, one token per step and by threshold.

    PYTHONPATH=python python bench/quality_caches.py --out bench/results/DIR

writes quality_caches.md, .png and .json. Tasks are held-out puzzles of sudoku6 with 14 givens, as
one block and in blocks of 11 masks, and the answers of the recall model, 64 at the end of each text
of 896 tokens, in blocks of 16. An exact cache of a block-causal model has its own tests.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tokenburst as tb
from machine import describe, metadata
from tokenburst import zoo
from tokenburst.demo import GIVENS
from tokenburst.zoo import recall, sudoku

CACHES = (
    None, tb.PrefixCache(), tb.DualCache(), tb.DualCache(vicinity=8), tb.DelayedCache(),
    tb.DelayedCache(refresh=2), tb.DelayedCache(refresh=None), tb.FreeCache(),
)  # fmt: skip
GREEDY = (None, tb.DelayedCache(), tb.GreedyCache(), tb.GreedyCache(refresh=8))
RULES = {
    "one per step": (tb.LowConfidence(), CACHES),
    "threshold 0.95": (tb.Threshold(0.95), CACHES),
    "one per step, random order": (tb.LowConfidence(ranking="random"), GREEDY),
}


def puzzles(count: int):
    """Sequences, those solved of filled ones, and the sizes of batch and block."""
    prompt, givens = zoo.prompt_ids("sudoku6"), GIVENS["sudoku6"]
    asked, _ = sudoku.puzzles(6, count, seed=2, split="test", givens=givens)
    ids = torch.cat([prompt.expand(count, -1), asked], 1)
    for block in (None, 11):
        title = f"sudoku6, {count} puzzles of {givens} givens, " + (
            "one block" if block is None else f"blocks of {block}"
        )
        yield title, "sudoku6", ids, lambda x: sudoku.is_solved(x[:, len(prompt) :], asked), block


def answers(count: int):
    """As `puzzles`; a task is one answer."""
    texts = -(-count // recall.QUESTIONS)
    masked, solved = recall.texts(texts, generator=torch.Generator().manual_seed(7))
    asked = masked == recall.MASK
    title = f"recall, {texts * recall.QUESTIONS} answers in {texts} texts, blocks of 16"
    yield title, "recall", masked, lambda x: x[asked] == solved[asked], 16


def measure(model: Any, ids: Tensor, right: Any, block: int | None, batch: int) -> list[dict]:
    """A row for each rule and cache."""
    fed, rows = [], []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for rule, (policy, caches) in RULES.items():
        for cache in caches:
            decoder = tb.DiffusionDecoder(model, policy, cache=cache)
            fed.clear()
            began, parts = (
                time.perf_counter(),
                zip(ids.split(batch), torch.arange(len(ids)).split(batch), strict=True),
            )
            outs = [decoder.infill(x, block_length=block, sequence_ids=n) for x, n in parts]
            seconds, solved = (
                time.perf_counter() - began,
                right(torch.cat([o.sequences for o in outs])),
            )
            forwards = sum(sum(map(sum, out.stats.steps)) for out in outs) / len(ids)
            rows.append(
                {
                    "rule": rule,
                    "cache": str(cache),
                    "accuracy": round(float(solved.float().mean()), 4),
                    "forwards": round(forwards, 2),
                    "positions": round(sum(fed) / len(ids)),
                    "seconds": round(seconds, 2),
                }
            )
            print(rows[-1], flush=True)
    hook.remove()
    return rows


def write(out: Path, said: str, sections: dict[str, list[dict]]) -> None:
    """The table and a plot of accuracy over forwards and over positions computed."""
    import matplotlib.pyplot as plt

    lines = ["# What KV caches cost in answers", "", "```", said, "```", ""]
    lines += ["Forwards, and positions that the model ran on, are means per sequence.", ""]
    figure, axes = plt.subplots(2, len(sections), figsize=(6 * len(sections), 9), squeeze=False)
    for at, (title, rows) in enumerate(sections.items()):
        lines += [f"## {title}", "", "| rule | cache | right % | forwards | positions | seconds |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            right = 100 * row["accuracy"]
            lines.append(
                f"| {row['rule']} | {row['cache']} | {right:.1f} | {row['forwards']:.2f} | "
                f"{row['positions']} | {row['seconds']:.2f} |"
            )
            for axis, x in zip(axes[:, at], ("forwards", "positions"), strict=True):
                axis.plot(row[x], right, "o", ms=4)
                axis.annotate(f"{row['cache']}, {row['rule']}", (row[x], right), fontsize=5)
                axis.set(xscale="log", xlabel=f"{x} per sequence", ylabel="right %")
                axis.grid(alpha=0.3)
        axes[0, at].set_title(title, fontsize=9)
        lines.append("")
    figure.tight_layout()
    figure.savefig(out / "quality_caches.png", dpi=110)
    (out / "quality_caches.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="tasks of each kind")
    parser.add_argument("--only", choices=("sudoku6", "recall"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts, sections = metadata(torch.device("cpu")), {}
    kinds = {"sudoku6": (puzzles, 64), "recall": (answers, 8)}
    for name, (tasks, batch) in kinds.items():
        for title, model, ids, right, block in (
            tasks(args.count) if args.only in (None, name) else ()
        ):
            print(title, flush=True)
            sections[title] = measure(zoo.load(model), ids, right, block, batch)
    args.out.mkdir(parents=True, exist_ok=True)
    run = json.dumps({"meta": facts, "sections": sections}, indent=1)
    (args.out / "quality_caches.json").write_text(run + "\n")
    write(args.out, describe(facts), sections)


if __name__ == "__main__":
    main()
