"""What every bench file of ops shares: correctness first, interleaved times, the physical bound.

A bench file defines `cases(device)`, which yields `Case`s one at a time, and ends with
`main(cases)`; rows that only a full run takes come from a second function, `main(cases, more)`.
`timing.py` says how calls are timed.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from machine import circumstances, describe, flop_rate, metadata, read_rate
from memory import peak_mb
from record import options, write
from timing import captured, interleaved, last_cache, nothing, ratio, summary

__all__ = ["Case", "circumstances", "main", "measure", "nbytes", "nothing", "short"]

Cases = Callable[[torch.device], Iterator["Case"]]


@dataclass
class Case:
    """One row: an op on one input, and the same work by other means.

    Of several baselines the fastest counts. `check` raises AssertionError where ours is wrong;
    `prepare` runs before every call and is not timed.
    """

    op: str
    name: str  # sizes and dtype
    ours: Callable[[], object]
    baselines: dict[str, Callable[[], object]]
    check: Callable[[], None]
    moved: int = 0  # bytes that have to be read and written once
    flops: int = 0
    dtype: torch.dtype = torch.float32
    prepare: Callable[[], object] = nothing
    cold: bool = False  # empty the CPU's caches before every call; a GPU's always are


def short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def cache_state(case: Case, device: torch.device) -> str:
    """'cold': emptied before each call; 'warm': the data is still there; 'memory': too large."""
    if case.cold or device.type == "cuda":
        return "cold"
    return "warm" if case.moved < last_cache(device) / 2 else "memory"


def bound_us(case: Case, device: torch.device) -> float:
    """Time the memory or the arithmetic needs at the least; CPU arithmetic is fp32 throughout."""
    rate = read_rate(device)
    if cache_state(case, device) == "warm":  # as fast as this many bytes are read again and again
        rate = max(rate, read_rate(device, 1 << max(20, case.moved.bit_length())))
    dtype = torch.float32 if device.type == "cpu" else case.dtype
    flops = case.flops / flop_rate(device, dtype) if case.flops else 0.0
    return max(case.moved / rate, flops)


def measure(case: Case, device: torch.device, budget: float) -> dict:
    """The row of one case; nothing is timed that is not right."""
    case.check()
    cold = cache_state(case, device) == "cold"
    calls = {"": case.ours, **case.baselines}
    replayed = set()
    if device.type == "cuda":
        for name, call in calls.items():
            if graph := captured(call, case.prepare):
                calls[name] = graph
                replayed.add(name)
    turns = interleaved(list(calls.values()), case.prepare, device, budget, cold)
    ours, *others = turns
    tables = {}
    for name, theirs in zip(case.baselines, others, strict=True):
        tables[name] = summary(theirs) | ratio(ours, theirs) | {"graph": name in replayed}
        tables[name]["peak_mb"] = peak_mb(case.baselines[name], case.prepare, device)
    mine = summary(ours)
    fastest = min(tables, key=lambda name: tables[name]["us"])
    bound = bound_us(case, device)
    return {
        "op": case.op,
        "case": case.name,
        "device": device.type,
        "cache": cache_state(case, device),
        **mine,
        "spread": round((mine["high"] - mine["low"]) / mine["us"], 3),
        "graph": "" in replayed,
        "peak_mb": peak_mb(case.ours, case.prepare, device),
        "bound_us": round(bound, 3),
        "of_bound": round(bound / mine["us"], 3),
        "baseline": fastest,
        "baseline_us": tables[fastest]["us"],
        **{key: tables[fastest][key] for key in ("ratio", "ratio_low", "ratio_high")},
        "baselines": tables,
    }


COLUMNS = "op", "case", "cache", "us", "spread", "of bound", "ratio", "baseline us", "baseline"
WIDTHS = 22, 42, 6, 10, 6, 8, 15, 11, 30


def table_line(cells: list[str]) -> str:
    left = {0, 1, 2, len(cells) - 1}
    return "  ".join(
        cell.ljust(w) if i in left else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, WIDTHS, strict=True))
    ).rstrip()


def cells(row: dict) -> list[str]:
    """A row of the table on the screen."""
    shown = f"{row['ratio']:.2f} {row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
    return [
        *(row["op"], row["case"], row["cache"], f"{row['us']:.1f}", f"{row['spread']:.0%}"),
        *(f"{row['of_bound']:.0%}" if row["bound_us"] else "", shown),
        *(f"{row['baseline_us']:.1f}", row["baseline"]),
    ]


def main(cases: Cases, more: Cases | None = None) -> None:
    """Command line of a bench file."""
    parser = options(sys.modules[cases.__module__].__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose op or name has it")
    parser.add_argument("--row-seconds", type=float, help="time per row, default 4, quick 0.7")
    args = parser.parse_args()
    started = time.perf_counter()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    facts, rows, left_out = metadata(device), [], 0
    print(describe(facts) + "\n\n" + table_line(list(COLUMNS)), flush=True)
    with torch.inference_mode():
        every = cases(device) if args.quick or more is None else chain(cases(device), more(device))
        for case in every:
            if args.only not in f"{case.op} {case.name}":
                continue
            if time.perf_counter() - started > args.seconds:
                left_out += 1
                continue
            row = measure(case, device, args.row_seconds or (0.7 if args.quick else 4.0))
            rows.append(row)
            print(table_line(cells(row)), flush=True)
            write(args.json, facts, rows)
    if left_out:
        print(f"{left_out} rows left out after {args.seconds:.0f} s")
