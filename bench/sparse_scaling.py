"""attn_sparse over density: its time as a share of density x one dense SDPA, and FlexAttention.

    python bench/sparse_scaling.py --threads 1 2

All columns of a table are timed in turn within one run; a figure is the median over the turns.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from bench_sparse import block_mask, compiled_flex
from harness import circumstances
from tokenburst import BlockPattern, ops

HEADS, LENGTH = 8, 4096
DENSITIES = (1.0, 0.5, 0.3, 0.1)


def milliseconds(calls: dict, turns: int) -> dict:
    """Medians over interleaved turns, after one that warms up."""
    times = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def chosen(block: int, density: float) -> torch.Tensor:
    """Random blocks, equally many in every row of [1, H, n, n]."""
    n = LENGTH // block
    return torch.rand(1, HEADS, n, n).argsort(-1) < max(1, round(density * n))


def table(dim: int, dtype: torch.dtype, turns: int, flex: bool) -> None:
    q, k, v = (torch.randn(1, HEADS, LENGTH, dim).to(dtype) for _ in range(3))
    calls = {"dense": lambda: F.scaled_dot_product_attention(q, k, v)}
    real = {}
    for block in (128, 64, 32):
        for density in (0.3,) if flex else DENSITIES:
            flags = chosen(block, density)
            bits = BlockPattern.from_bool(flags, block).bits
            real[block, density] = float(flags.float().mean())
            calls[block, density] = lambda bits=bits, block=block: ops.attn_sparse(
                q, k, v, bits, block
            )
            if flex:
                mask = block_mask(flags, block)
                calls["flex", block] = lambda mask=mask: compiled_flex()(q, k, v, block_mask=mask)
    found = milliseconds(calls, turns)
    name = f"D={dim} {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"
    print(f"\n{name}, dense SDPA {found['dense']:.1f} ms\n")
    if flex:
        print("| block | d | ours ms | FlexAttention ms | Flex / ours |\n|---|---|---|---|---|")
        for (block, density), d in real.items():
            ours, other = found[block, density], found["flex", block]
            print(f"| {block} | {d:.3f} | {ours:.1f} | {other:.1f} | {other / ours:.2f} |")
        return
    print("| block | d | ms | time / (d x dense) |\n|---|---|---|---|")
    for key, d in real.items():
        print(f"| {key[0]} | {d:.3f} | {found[key]:.1f} | {found[key] / d / found['dense']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--flex", action="store_true", help="against FlexAttention, at d = 0.3")
    args = parser.parse_args()
    print(circumstances(torch.device("cpu")))
    torch.manual_seed(0)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for dim in args.dims:
            table(dim, torch.bfloat16 if args.bf16 else torch.float32, args.turns, args.flex)


if __name__ == "__main__":
    main()
