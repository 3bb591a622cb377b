"""How the time of each op grows with V, L, N and B: log-log points and the slope of the last three.

A slope of 1 is linear. Where the fixed cost of a call or the reading of a cache weighs, it is less.
"""

import math
import time

import torch

from growth_ops import series
from machine import describe, metadata
from record import options, write
from timing import captured, interleaved, nothing, summary


def slope(sizes: list[int], times: list[float]) -> float:
    """Least-squares slope of log time over log size, of the last three points."""
    xs, ys = ([math.log(v) for v in values[-3:]] for values in (sizes, times))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    products = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return products / sum((a - x) ** 2 for a in xs)


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="series whose op or axis has it")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    facts, rows, started = metadata(device), [], time.perf_counter()
    print(describe(facts), flush=True)
    for one in series(device):
        if args.only not in f"{one.op} {one.axis}":
            continue
        if time.perf_counter() - started > args.seconds:
            print(f"{one.op} over {one.axis} left out after {args.seconds:.0f} s")
            continue
        sizes = one.sizes[:3] if args.quick else one.sizes
        with torch.inference_mode():
            calls = [one.make(size) for size in sizes]
            if device.type == "cuda":
                calls = [captured(call, nothing) or call for call in calls]
            turns = interleaved(calls, nothing, device, 0.5 if args.quick else 3.0)
        points = [{"size": n, **summary(t)} for n, t in zip(sizes, turns, strict=True)]
        found = round(slope(list(sizes), [point["us"] for point in points]), 2)
        row = {"op": one.op, "axis": one.axis, "others": one.others, "exponent": one.exponent}
        rows.append(row | {"device": device.type, "slope": found, "points": points})
        shown = "  ".join(f"{p['size']}: {p['us']:.1f}" for p in points)
        print(f"{one.op:20} over {one.axis:10} slope {found:5.2f}   us {shown}", flush=True)
        write(args.json, facts, rows, kind="growth")


if __name__ == "__main__":
    main()
