"""Where and when a benchmark ran: what its file of rows begins with, and what it prints first."""

import datetime
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import torch

from timing import Call, last_cache, nothing, sample
from tokenburst import build_info


def least(call: Call, device: torch.device, seconds: float = 0.3) -> float:
    """Microseconds of the fastest of many calls, so that a busy moment does not count."""
    end, fastest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end or fastest == float("inf"):
        fastest = min(fastest, *sample(call, nothing, device, 4))
    return fastest


# The best of each rate so far: a busy moment makes a rate too low, and a bound with it.
_best: dict[tuple, float] = {}


def best(key: tuple, now: float) -> None:
    _best[key] = max(now, _best.get(key, 0.0))


def read_rate(device: torch.device, size: int = 0, seconds: float = 0.0) -> float:
    """Bytes per microsecond that torch.sum reads of `size` bytes over and over; 0: of memory.

    The best so far; with `seconds` after trying once more.
    """
    key = "read", device.type, size
    if seconds or key not in _best:
        read_rate_now(device, size, seconds or 0.3)
    return _best[key]


def read_rate_now(device: torch.device, size: int = 0, seconds: float = 0.05) -> float:
    """The rate at this moment, which on a shared host is another one a minute later."""
    memory = 128 << 20 if device.type == "cpu" else 2 << 30
    x = torch.ones(size // 4, device=device) if size else large(device, memory)
    now = 4 * x.numel() / least(x.sum, device, seconds)
    best(("read", device.type, size), now)
    return now


@cache
def large(device: torch.device, size: int) -> torch.Tensor:
    return torch.ones(size // 4, device=device)


def flop_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.0) -> float:
    """Flops per microsecond of a square matmul: the best so far, as above."""
    key = "flop", device.type, dtype
    if seconds or key not in _best:
        n = 1024 if device.type == "cpu" else 8192
        a = torch.ones(n, n, device=device, dtype=dtype)
        out = torch.empty_like(a)
        call = lambda: torch.mm(a, a, out=out)  # noqa: E731
        best(key, 2 * n**3 / least(call, device, seconds or 0.3))
    return _best[key]


def ask(*command: str) -> str:
    """First line that a program prints, '' where it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]


def revision() -> str:
    """Commit of this checkout, with a + where files differ from it."""
    here = "git", "-C", str(Path(__file__).parent)
    commit = ask(*here, "rev-parse", "--short=12", "HEAD")
    return commit + "+" * bool(commit and ask(*here, "status", "--porcelain", "-uno"))


def processor() -> dict[str, object]:
    """Name, MHz now and governor of the first core; '?' where Linux does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = dict(reversed([line.split("\t: ", 1) for line in lines if "\t: " in line]))
    facts = {key.strip(): value for key, value in facts.items()}
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": facts.get("model name", platform.processor() or "?"),
        "cores": os.cpu_count(),
        "mhz": facts.get("cpu MHz", "?"),
        "governor": governor.read_text().strip() if governor.exists() else "not exposed",
        "last_level_cache_mb": last_cache(torch.device("cpu")) >> 20,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def stolen() -> float:
    """Share of CPU time since boot that the host of a virtual machine gave to others."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ticks = [int(n) for n in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7] / max(1, sum(ticks))


def metadata(device: torch.device) -> dict[str, object]:
    """All circumstances as plain data."""
    info = build_info()
    facts: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python " + " ".join(sys.argv),
        "revision": revision() or "?",
        "device": device.type,
        "system": f"{platform.system()} {platform.machine()}",
        **processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "steal": round(stolen(), 4),
        "tokenburst": info["version"],
        "build": info["build_id"],
        "isa": info["cpu_isa"],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        asked = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,driver_version"
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["gpu_cache_mb"] = last_cache(device) >> 20
        facts["gpu_state"] = ask("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader")
        facts["gpu_bf16_tflops"] = round(flop_rate(device, torch.bfloat16) / 1e6, 1)
    return facts | rates(device)


def rates(device: torch.device) -> dict[str, float]:
    """The best ones so far, as they are reported."""
    return {
        "read_gbps": round(read_rate(device) / 1e3, 1),
        "fp32_tflops": round(flop_rate(device, torch.float32) / 1e6, 3),
    }


def describe(facts: dict) -> str:
    """The circumstances as a few lines of text."""
    lines = [
        f"{facts['system']}, {facts['cpu']}, {facts['cores']} cores at {facts['mhz']} MHz, "
        f"governor {facts['governor']}, {facts['last_level_cache_mb']} MB last-level cache",
        f"{facts['threads']} threads, load {facts['load']}, {facts['steal']:.1%} of time stolen",
        f"tokenburst {facts['tokenburst']} ({facts['isa']}) at {facts['revision']}, torch "
        f"{facts['torch']} ({facts['torch_isa']}), Python {facts['python']}",
        f"{facts['date']}, {facts['command']}",
        f"reads {facts['read_gbps']} GB/s, matmul fp32 {facts['fp32_tflops']} TFLOP/s",
    ]
    if "gpu" in facts:
        lines[-1] += f", bf16 {facts['gpu_bf16_tflops']} TFLOP/s"
        lines.insert(0, f"{facts['gpu']}, {facts['gpu_cache_mb']} MB cache, {facts['gpu_state']}")
    if float(facts["load"]) > 0.5:
        lines.append(f"! the machine was busy before this run began (load {facts['load']})")
    return "\n".join(lines)


def circumstances(device: torch.device) -> str:
    return describe(metadata(device))
