"""Times of several calls taken in turn: medians, quartiles, caches warm or cold by name.

Everything that the machine does beside us falls on all calls alike, so what is compared is the
ratio within each turn. On a GPU a call is one replay of a CUDA graph where it can be captured.
"""

import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

Call = Callable[[], object]


def nothing() -> None:
    pass


@cache
def last_cache(device: torch.device) -> int:
    """Bytes of the largest cache in front of memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [32 << 20]  # where Linux does not say
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
    return max(sizes[1:] or sizes)


@cache
def flush_buffer(device: torch.device) -> torch.Tensor:
    return torch.ones(2 * last_cache(device) // 4, device=device)


def flush(device: torch.device) -> None:
    """Fills the caches with something else; on a CPU by reading, so that no write is left over."""
    buffer = flush_buffer(device)
    buffer.zero_() if device.type == "cuda" else buffer.sum()


def sample(
    call: Call, prepare: Call, device: torch.device, count: int, cold: bool = False
) -> list[float]:
    """Microseconds of `count` calls; `prepare` and the flush before each are not timed."""
    times, pairs = [], []
    for _ in range(count):
        prepare()
        if cold:
            flush(device)
        if device.type == "cpu":
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e3)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        pairs.append((begin, end))
    if pairs:
        torch.cuda.synchronize()
    return times + [begin.elapsed_time(end) * 1e3 for begin, end in pairs]


def captured(call: Call, prepare: Call) -> Call | None:
    """The call as one replay of a CUDA graph; None where it asks the host something."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            prepare(), call()
            prepare()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")  # a failed capture could spoil the generator
            call()
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        return None
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    return graph.replay


def interleaved(
    calls: list[Call], prepare: Call, device: torch.device, budget: float, cold: bool = False
) -> list[list[list[float]]]:
    """Times [call][turn][sample] until `budget` seconds are used, at least three turns."""
    end = time.perf_counter() + budget
    counts = []
    for call in calls:  # a turn lasts about 2 ms or one call
        typical = min(sample(call, prepare, device, 2, cold))
        counts.append(max(1, min(10 if cold else 200, int(2e3 / typical))))
    turns: list[list[list[float]]] = [[] for _ in calls]
    while len(turns[0]) < 3 or time.perf_counter() < end:
        for mine, call, count in zip(turns, calls, counts, strict=True):
            mine.append(sample(call, prepare, device, count, cold))
    return turns


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summary(turns: list[list[float]]) -> dict[str, float | int]:
    """Median and quartiles of all samples."""
    values = [value for turn in turns for value in turn]
    low, middle, high = quartiles(values)
    return {
        "us": round(middle, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "calls": len(values),
    }


def ratio(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    """Theirs / ours within each turn: median and quartiles over the turns."""
    pairs = zip(ours, theirs, strict=True)
    ratios = [statistics.median(b) / statistics.median(a) for a, b in pairs]
    low, middle, high = quartiles(ratios)
    return {
        "ratio": round(middle, 3),
        "ratio_low": round(low, 3),
        "ratio_high": round(high, 3),
    }
