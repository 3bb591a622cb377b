"""Runs the CUDA sources on the CPU: the host compiler builds them, calls with CPU tensors go there.

    with executor.running("tree_verify_greedy", checked=True):
        tb.ops.tree_verify_greedy(...)  # one fiber per CUDA thread

`checked` builds watch every memory access of the kernels; plain builds are several times faster.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import torch

from tokenburst import _C

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "simt"
COMPILER = shlex.split(os.environ.get("CXX", "g++"))

FLAGS = [
    *("-x", "c++", "-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-strict-aliasing", "-w", "-DTB_SIMT"),
    *("-I", str(HERE / "include"), "-I", str(ROOT / "csrc")),
]
# The compiler announces every access; checks.cpp, not a sanitizer's runtime, answers.
WATCHED = [
    *("-DSIMT_CHECKED", "-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"),
    "-fsanitize=alignment,bounds,null,shift-exponent,integer-divide-by-zero",
]


EXECUTOR = ["runtime.cpp", "warp.cpp", "named_barrier.cpp", "checks.cpp", "report.cpp"]


class KernelError(RuntimeError):
    """A kernel did what it must not do; the message names kernel, block, thread and line."""


def sources() -> dict[str, Path]:
    """The .cu file of every op, as CMakeLists.txt lists them."""
    listed = re.search(r"set\(TOKENBURST_OPS\n(.*?)\)", (ROOT / "CMakeLists.txt").read_text(), re.S)
    return {Path(op).name: ROOT / "csrc" / f"{op}_cuda.cu" for op in listed.group(1).split()}


def build_id() -> str:
    """The id of the sources as they are now; CMakeLists.txt computes it alike."""
    version = re.search(r'\nversion = "([0-9.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    headers = sorted((ROOT / "csrc").rglob("*.h"))
    hashes = version + "".join(hashlib.sha256(h.read_bytes()).hexdigest() for h in headers)
    return f"{version}-{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def _compile(command: list[str], inputs: list[Path], suffix: str) -> Path:
    """Runs the compiler unless the same command has seen the same text of all its inputs."""
    key = hashlib.sha256(" ".join(command).encode())
    for path in inputs:
        key.update(path.read_bytes())
    output = BUILD / f"{inputs[0].stem}-{key.hexdigest()[:16]}{suffix}"
    if not output.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_name(f"{output.name}.{os.getpid()}")
        done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{inputs[0]} does not compile for the host:\n{done.stderr}")
        unfinished.rename(output)
    return output


def _object(source: Path, flags: list[str]) -> Path:
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh")]
    headers += [*(HERE / "include").iterdir(), HERE / "runtime.h"]
    flags = [*FLAGS, *flags]
    return _compile([*COMPILER, *flags, "-c", str(source)], [source, *sorted(headers)], ".o")


@functools.cache
def library(*cuda_sources: Path, checked: bool = False) -> Path:
    """Shared library of these .cu files and the executor."""
    objects = [_object(source, WATCHED if checked else []) for source in cuda_sources]
    mode = ["-DSIMT_CHECKED", "-O2"] if checked else ["-O2"]
    objects += [_object(HERE / name, mode) for name in EXECUTOR]
    build_id_flag = f'-DTB_BUILD_ID="{build_id()}"'
    id_source = ROOT / "csrc/common/build_id.cu"
    objects.append(_object(id_source, [build_id_flag, "-include", "cuda_runtime.h"]))
    command = [*COMPILER, "-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", *map(str, objects)]
    return _compile([*command, "-ldl"], objects, ".so")


@functools.cache
def _memory() -> ctypes.CDLL:
    """The allocator that tells the checks where tensors are; it speaks torch's C++ ABI."""
    torch_root = Path(torch.__file__).parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w", abi]
    flags += ["-isystem", str(torch_root / "include"), str(HERE / "memory.cpp")]
    flags += ["-L", str(torch_root / "lib"), "-lc10"]
    command = [*COMPILER, *flags, f"-DSIMT_TORCH={torch.__version__}"]  # another torch, another key
    return ctypes.CDLL(str(_compile(command, [HERE / "memory.cpp"], ".so")))


@contextlib.contextmanager
def memory(pattern: int = 0xFF):
    """New CPU tensors are watched: exact bounds, gaps between them, `pattern` in fresh ones."""
    _memory().simt_use_arena(True, pattern)
    try:
        yield
    finally:
        _memory().simt_use_arena(False, pattern)


# order of blocks and threads, seed, what uninitialised memory holds
SCHEDULES = {"forward": (0, 0, 0xFF), "reverse": (1, 0, 0x7B), "shuffled": (2, 1, 0x3C)}


@contextlib.contextmanager
def opened(path: Path, schedule: str = "forward"):
    """A library of `library()`, told its schedule and where tensors are; for use in `memory()`."""
    loaded = ctypes.CDLL(str(path))
    order, seed, pattern = SCHEDULES[schedule]
    loaded.simt_schedule(order, ctypes.c_uint64(seed), pattern)
    arena = [ctypes.c_void_p() for _ in range(3)]
    _memory().simt_arena(*map(ctypes.byref, arena))
    loaded.simt_watch(*arena)
    try:
        yield loaded
    finally:
        loaded.simt_watch(None, None, None)


@contextlib.contextmanager
def running(*ops: str, checked: bool = False, schedule: str = "forward"):
    """Calls of these ops with CPU tensors run their CUDA kernels; other ops fail in the meantime.

    Tensors that a checked kernel touches must be made inside.
    """
    path = library(*(sources()[op] for op in ops), checked=checked)
    with memory(SCHEDULES[schedule][2]), opened(path, schedule):
        why_not = _C.set_executor(str(path))
        if why_not:
            raise RuntimeError(f"{why_not}; build and install the extension again")
        try:
            yield
        finally:
            _C.set_executor(None)
