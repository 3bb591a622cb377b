"""The most memory that a call takes on top of what it was given."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def kilobytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def peak_mb(call: Callable[[], object], prepare: Callable, device: torch.device) -> float | None:
    """Megabytes at the peak of one call, its result included; None where the system cannot say.

    On a CPU this is the growth of the process, so what malloc kept from earlier calls is given back
    first, and less than a megabyte shows as 0.
    """
    prepare()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")  # the peak starts again from here
        before = kilobytes("VmRSS")
    except (OSError, AttributeError, StopIteration):
        return None
    result = call()
    peak = kilobytes("VmHWM")
    del result
    return float(max(0, peak - before) // 1024)
