"""Every drafter on held-out prompts of pycode: tokens per forward, acceptance, time against plain.

    python bench/bench_drafters.py --out bench/results/DATE-MACHINE/drafters.md

Greedy and at temperature 1, one sequence at a time. Drafters that learn start empty in each round
and keep what they learned from prompt to prompt. Times are medians over rounds in which all
drafters take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tokenburst as tb
from harness import circumstances
from tokenburst import zoo
from tokenburst.decoders.drafting import Drafter

Make = Callable[[], Drafter | None]


def drafters() -> dict[str, Make]:
    """All of them by name; the draft model is shared."""
    small = zoo.draft("pycode")
    # By rank, of draws without replacement from this draft model; see AcceptanceRecorder.by_rank.
    sequoia = tb.sequoia_tree((0.6, 0.15, 0.06, 0.03), 16, 5)
    shapes = {
        "draft chain 4": tb.Chain(4),
        "draft independent 3x3, K-SEQ": tb.Independent(3, 3),
        "draft independent 3x3, multi-step": tb.Independent(3, 3, "rrs_wr"),
        "draft branching 3,2,1 (RSD-C)": tb.Branching((3, 2, 1)),
        "draft beam 3x4 (RSD-S)": tb.StochasticBeam(3, 4),
        "draft Sequoia 16 nodes": tb.StaticTree(sequoia),
        "draft DySpec 15": tb.DySpec(15, depth=4, width=4, siblings=3),
        "draft DySpec threshold 0.1": tb.DySpec(15, depth=4, width=4, siblings=3, threshold=0.1),
    }
    made: dict[str, Make] = {
        "plain": lambda: None,
        "Token Recycling": lambda: tb.TokenRecycling("4x2x1"),
        "prompt lookup, official": lambda: tb.PromptLookup(8, "official"),
        "prompt lookup, transformers": lambda: tb.PromptLookup(8, "transformers"),
        "prompt lookup, vLLM": lambda: tb.PromptLookup(8, "vllm"),
        "STAND": lambda: tb.Stand("4x2x1"),
        "merged: Token Recycling, lookup": lambda: tb.Merged(
            [tb.TokenRecycling("4x2x1"), tb.PromptLookup(8)]
        ),
        "merged: draft branching 3,2,1, lookup": lambda: tb.Merged(
            [tb.DraftModel(small, tb.Branching((3, 2, 1))), tb.PromptLookup(8)]
        ),
    }
    return made | {name: lambda s=shape: tb.DraftModel(small, s) for name, shape in shapes.items()}


def one_round(model, make: Make, prompts: list[torch.Tensor], new: int, heat: float):
    """Seconds, tokens per forward and acceptance by depth over the prompts."""
    inner = make()
    recorder = None if inner is None else tb.AcceptanceRecorder(inner)
    decoder = tb.TreeDecoder(model, recorder)
    seconds, tokens, forwards = 0.0, 0, 0
    for i, ids in enumerate(prompts):
        stats = decoder.generate(ids, max_new_tokens=new, temperature=heat, seed=i).stats
        seconds += stats.seconds
        tokens += sum(stats.new_tokens)
        forwards += stats.forwards
    return seconds, tokens / forwards, recorder.acceptance_by_depth() if recorder else []


def table(
    heat: float, prompts: list[torch.Tensor], new: int, rounds: int, seconds: float
) -> list[str]:
    """Markdown of one temperature; no round but the first begins after `seconds`."""
    end = time.perf_counter() + seconds
    model, made = zoo.load("pycode"), drafters()
    for make in made.values():
        one_round(model, make, prompts[:1], 8, heat)
    runs: list[dict] = []
    while len(runs) < rounds and (not runs or time.perf_counter() < end):
        runs.append({n: one_round(model, m, prompts, new, heat) for n, m in made.items()})
    lines = [
        f"## {'Greedy' if heat == 0 else f'Temperature {heat:g}'}, medians of {len(runs)} rounds",
        "",
        "| drafter | tokens per forward | time of plain / time | accepted at depth 1, 2, ... |",
        "|---|---|---|---|",
    ]
    for name in made:
        ratio = statistics.median(run["plain"][0] / run[name][0] for run in runs)
        _, per_forward, depths = runs[-1][name]
        shown = " ".join(f"{a:.2f}" for a in depths)
        lines.append(f"| {name} | {per_forward:.2f} | {ratio:.2f} | {shown} |")
    return [*lines, ""]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the tables there too")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=160, help="no round begins after it")
    args = parser.parse_args()
    tokenizer = zoo.tokenizer("pycode")
    texts = [entry["text"] for entry in zoo.prompts("pycode")[: args.prompts]]
    prompts = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    lines = [
        "# Drafters on pycode",
        "",
        f"{len(prompts)} held-out prompts, {args.new_tokens} new tokens each, one sequence at a",
        "time, all drafters in turn in each round; the prefill counts as a forward.",
        "",
        "```",
        circumstances(torch.device("cpu")),
        "```",
        "",
    ]
    for heat in (0.0, 1.0):
        lines += table(heat, prompts, args.new_tokens, args.rounds, args.seconds / 2)
        print("\n".join(lines), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
