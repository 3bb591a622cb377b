"""Timing for the bench files: correctness first, interleaved medians, the physical bound.

A bench file defines `cases(device)`, which yields `Case`s one at a time, and ends with
`main(cases)`. Ours and the baselines run in turn, so that whatever else the machine does falls on
all of them alike.
"""

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from tokenburst import build_info


def nothing() -> None:
    pass


@dataclass
class Case:
    """One row: an op on one input, and the same work in eager torch.

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


def short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@cache
def flush_buffer() -> torch.Tensor:
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return torch.empty(2 * l2, dtype=torch.int8, device="cuda")


def sample(call: Callable, prepare: Callable, device: torch.device, count: int) -> list[float]:
    """Microseconds of `count` calls; on a GPU by events, with a cold L2 cache."""
    times, pairs = [], []
    if device.type == "cpu":
        for _ in range(count):
            prepare()
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times
    for _ in range(count):
        prepare()
        flush_buffer().zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in pairs]


def interleaved(
    calls: list[Callable], prepare: Callable, device: torch.device, budget: float
) -> list[list[float]]:
    """Times of each call, taken in turn until `budget` seconds are used, at least three turns."""
    end = time.perf_counter() + budget
    counts = []
    for call in calls:  # a turn lasts about 2 ms or one call
        typical = min(sample(call, prepare, device, 2))
        counts.append(max(1, min(200, int(2e3 / typical))))
    times: list[list[float]] = [[] for _ in calls]
    while len(times[0]) < 3 * counts[0] or time.perf_counter() < end:
        for mine, call, count in zip(times, calls, counts, strict=True):
            mine += sample(call, prepare, device, count)
    return times


@cache
def read_rate(device: torch.device) -> float:
    """Bytes per microsecond that torch.sum reads from memory; what fits a cache can be faster."""
    x = torch.ones((128 if device.type == "cpu" else 2048) << 18, device=device)
    return nbytes(x) / min(sample(x.sum, nothing, device, 25))


@cache
def flop_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Flops per microsecond of a square matmul."""
    n = 1024 if device.type == "cpu" else 8192
    a = torch.ones(n, n, device=device, dtype=dtype)
    out = torch.empty_like(a)
    return 2 * n**3 / min(sample(lambda: torch.mm(a, a, out=out), nothing, device, 25))


def bound_us(case: Case, device: torch.device) -> float:
    """Time the memory or the arithmetic needs at the least; CPU arithmetic is fp32 throughout."""
    dtype = torch.float32 if device.type == "cpu" else case.dtype
    return max(case.moved / read_rate(device), case.flops / flop_rate(device, dtype))


def measure(case: Case, device: torch.device, budget: float) -> dict:
    """The row of one case; nothing is timed that is not right."""
    case.check()
    names = list(case.baselines)
    calls = [case.ours, *case.baselines.values()]
    ours, *others = interleaved(calls, case.prepare, device, budget)
    medians = [statistics.median(other) for other in others]
    fastest = medians.index(min(medians))
    us = statistics.median(ours)
    low, _, high = statistics.quantiles(ours, n=4)
    return {
        "op": case.op,
        "case": case.name,
        "device": device.type,
        "us": round(us, 3),
        "baseline": names[fastest],
        "baseline_us": round(medians[fastest], 3),
        "ratio": round(medians[fastest] / us, 3),
        "bound_us": round(bound_us(case, device), 3),
        "spread": round((high - low) / us, 3),
    }


def circumstances(device: torch.device) -> str:
    info = build_info()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "?")
    text = [
        f"{platform.system()} {platform.machine()}, {cpu}, {torch.get_num_threads()} threads",
        f"tokenburst {info['version']} ({info['cpu_isa']}), torch {torch.__version__}",
        f"{datetime.date.today()}, python {' '.join(sys.argv)}",
    ]
    if device.type == "cuda":
        text.insert(1, torch.cuda.get_device_name())
    text.append(f"reads {read_rate(device) / 1e3:.1f} GB/s")
    text.append(f"matmul fp32 {flop_rate(device, torch.float32) / 1e6:.2f} TFLOP/s")
    return "\n".join(text)


COLUMNS = ("op", "case", "us", "spread", "ratio", "baseline_us", "bound_us", "of bound", "baseline")


def table_line(cells: list[str], widths: list[int]) -> str:
    left = {0, 1, len(cells) - 1}
    return "  ".join(
        cell.ljust(w) if i in left else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def main(cases: Callable[[torch.device], Iterator[Case]]) -> None:
    parser = argparse.ArgumentParser(description=sys.modules[cases.__module__].__doc__)
    parser.add_argument("--quick", action="store_true", help="under 30 s: fewer repeats")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads, default as torch chooses")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose op or name has it")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    print(circumstances(device) + "\n")
    widths = [20, 42, 10, 6, 6, 11, 10, 8, 30]
    print(table_line(list(COLUMNS), widths))
    rows = []
    with torch.inference_mode():
        for case in cases(device):
            if args.only not in f"{case.op} {case.name}":
                continue
            row = measure(case, device, 0.7 if args.quick else 4.0)
            spread = row.pop("spread")
            rows.append(row)
            cells = [row["op"], row["case"], f"{row['us']:.1f}", f"{spread:.0%}"]
            cells += [f"{row['ratio']:.2f}", f"{row['baseline_us']:.1f}", f"{row['bound_us']:.1f}"]
            cells += [f"{row['bound_us'] / row['us']:.0%}", row["baseline"]]
            print(table_line(cells, widths), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
