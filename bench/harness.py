"""What every bench file of ops shares: correctness first, interleaved times, the physical bound.

A bench file defines `cases(device)`, which yields `Case`s one at a time, and ends with
`main(cases)`; rows that only a full run takes come from a second function, `main(cases, more)`.
`timing.py` says how calls are timed.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from machine import (
    circumstances,
    describe,
    flop_rate,
    metadata,
    rates,
    read_rate,
    read_rate_now,
)
from memory import peak_mb
from record import options, write
from screen import COLUMNS, cells, table_line
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


def bound_us(case: Case, device: torch.device, memory: float, again: float = 0.0) -> float:
    """Time that memory or arithmetic needs at the least; CPU arithmetic is fp32 throughout.

    `memory`: its rate while the row ran; `again`: seconds to find better rates of the rest.
    """
    if cache_state(case, device) == "warm":  # as fast as this many bytes are read again and again
        size = 1 << max(20, case.moved.bit_length())
        memory = max(memory, read_rate(device, size, again))
    dtype = torch.float32 if device.type == "cpu" else case.dtype
    flops = case.flops / flop_rate(device, dtype, again) if case.flops else 0.0
    return max(case.moved / memory, flops)


def preemptions() -> int:
    """How often this process had to give a core to another one that wanted it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def able(case: Case) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """The baselines that run here, and why others do not: a backend may lack a dtype or size."""
    works, refused = {}, {}
    for name, call in case.baselines.items():
        try:
            case.prepare()
            call()
            works[name] = call
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}"[:200]
    if not works:
        raise RuntimeError(f"no alternative runs here: {refused}")
    return works, refused


def measure(case: Case, device: torch.device, budget: float) -> dict:
    """The row of one case; nothing is timed that is not right."""
    case.check()
    cold = cache_state(case, device) == "cold"
    baselines, refused = able(case)
    calls = {"": case.ours, **baselines}
    replayed = set()
    if device.type == "cuda":
        for name, call in calls.items():
            if graph := captured(call, case.prepare):
                calls[name] = graph
                replayed.add(name)
    rate, moments, budget = read_rate_now(device), [], budget - 0.1
    for _ in range(2):  # once more where other programs had the cores, and the calmer one counts
        before = preemptions()
        turns = interleaved(list(calls.values()), case.prepare, device, budget, cold)
        taken = preemptions() - before
        moments.append((taken / len(turns[0]), taken, turns))
        if taken <= len(turns[0]) or device.type == "cuda":
            break
    rate = max(rate, read_rate_now(device))
    _, preempted, turns = min(moments, key=lambda moment: moment[0])
    ours, *others = turns
    tables = {}
    for name, theirs in zip(baselines, others, strict=True):
        tables[name] = summary(theirs) | ratio(ours, theirs) | {"graph": name in replayed}
        tables[name]["peak_mb"] = peak_mb(baselines[name], case.prepare, device)
    mine = summary(ours)
    fastest = min(tables, key=lambda name: tables[name]["us"])
    bound = bound_us(case, device, rate)
    if bound > mine["us"]:  # our moment was better than that of the rates
        bound = bound_us(case, device, read_rate(device, 0, 0.3), 0.3)
    return {
        "op": case.op,
        "case": case.name,
        "device": device.type,
        "cache": cache_state(case, device),
        **mine,
        "spread": round((mine["high"] - mine["low"]) / mine["us"], 3),
        "graph": "" in replayed,
        "preempted": preempted,
        "read_gbps": round(rate / 1e3, 1),
        "peak_mb": peak_mb(case.ours, case.prepare, device),
        "bound_us": round(bound, 3),
        "of_bound": round(bound / mine["us"], 3),
        "baseline": fastest,
        "baseline_us": tables[fastest]["us"],
        **{key: tables[fastest][key] for key in ("ratio", "ratio_low", "ratio_high")},
        "baselines": tables,
        "refused": refused,
    }


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
    facts, rows, failed, left_out = metadata(device), [], [], 0
    print(describe(facts) + "\n\n" + table_line(list(COLUMNS)), flush=True)
    with torch.inference_mode():
        every = cases(device) if args.quick or more is None else chain(cases(device), more(device))
        for case in every:
            if args.only not in f"{case.op} {case.name}":
                continue
            if time.perf_counter() - started > args.seconds:
                left_out += 1
                continue
            try:
                row = measure(case, device, args.row_seconds or (0.7 if args.quick else 4.0))
            except Exception as error:  # the other rows still count
                failed.append(f"{case.op} {case.name}: {type(error).__name__}: {error}")
                print(f"! {failed[-1]}", flush=True)
                continue
            rows.append(row)
            facts |= rates(device)  # the best ones so far
            print(table_line(cells(row)), flush=True)
            write(args.json, facts, rows, failed=failed)
    if left_out:
        print(f"{left_out} rows left out after {args.seconds:.0f} s")
    if failed:
        sys.exit(f"{len(failed)} rows failed")
