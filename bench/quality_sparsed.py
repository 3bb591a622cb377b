"""What SparseD costs in quality: agreement with dense attention, and right answers.

The built-in recall model fills 64 masks at the end of texts of 896 tokens from keys and values
anywhere before them, 4 masks per step: T = 16 steps. `python bench/quality_sparsed.py`
"""

import argparse
import time

import torch

import tokenburst as tb
from harness import circumstances
from tokenburst import zoo
from tokenburst.zoo import recall


def cases():
    """Keep at the default skip, skip at two keeps, block and scale at the default of both."""
    for keep in (0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.3, 0.5, 1.0):
        yield {"keep": keep}
    for keep in (0.08, 0.16):
        for skip in (0.0, 0.4, 0.6):
            yield {"keep": keep, "skip": skip}
    for block in (64, 128):
        yield {"block": block}
    for keep in (0.08, 0.16):
        yield {"keep": keep, "pattern_scale": "llada"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--pages", type=int, default=96)
    parser.add_argument("--tokens-per-step", type=int, default=4)
    args = parser.parse_args()
    print(circumstances(torch.device("cpu")) + "\n")
    model = zoo.load("recall")
    masked, solved = recall.texts(args.texts, args.pages, torch.Generator().manual_seed(7))
    asked = masked == recall.MASK
    policy = tb.LowConfidence(tokens_per_step=args.tokens_per_step)

    def fill(attention):
        began = time.perf_counter()
        out = tb.DiffusionDecoder(model, policy, attention=attention).infill(masked)
        return out.sequences[asked], out.stats, time.perf_counter() - began

    dense, stats, seconds = fill(None)
    right = (dense == solved[asked]).float().mean()
    print(f"{args.texts} texts of {masked.shape[1]} tokens, {len(dense)} answers, {policy}")
    print(f"dense attention: {stats.forwards} forwards, {right:.4f} right, {seconds:.2f} s\n")
    print(
        "| keep | skip | block | scale | dense steps | density | agrees | right | KB of patterns |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for options in cases():
        method = tb.SparseD(**{"block": 32} | options)
        got, stats, _ = fill(method)
        cells = [method.keep, method.skip, method.block, method.pattern_scale]
        cells += [stats.forwards - stats.sparse.forwards, f"{stats.sparse.density:.3f}"]
        cells += [f"{(got == dense).float().mean():.4f}"]
        cells += [f"{(got == solved[asked]).float().mean():.4f}"]
        cells += [f"{stats.sparse.nbytes / 1024:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
