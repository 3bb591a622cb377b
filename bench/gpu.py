"""All that a GPU has to say, without network: build, the tests of the kernels, then every GPU row.

    python bench/gpu.py --out bench/results/DATE-GPU --minutes 30 [--resume]

Rows come in order of importance, each part is bounded in time and leaves its results as it goes; a
run that was cut is continued with --resume. Needs torch, nvcc, cmake, ninja, pybind11 and pytest.
Without a GPU it says what it leaves out and ends well.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from stages import STAGES

ROOT = Path(__file__).resolve().parents[1]


def step(name: str, command: list[str], seconds: float, **environment: str) -> bool:
    """Runs a command within a time; whether it succeeded."""
    began = time.perf_counter()
    print(f"== {name}: {' '.join(command)}", flush=True)
    try:
        env = os.environ | environment
        status = subprocess.run(command, cwd=ROOT, timeout=seconds, env=env).returncode
        said = "ok" if status == 0 else f"status {status}"
    except subprocess.TimeoutExpired:
        status, said = 1, f"cut after {seconds:.0f} s"
    print(f"== {name}: {said}, {time.perf_counter() - began:.0f} s", flush=True)
    return status == 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default bench/results/DATE-NAME of the GPU")
    parser.add_argument("--minutes", type=float, default=30, help="of the whole run")
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--resume", action="store_true", help="leave what --out already has")
    parser.add_argument("--no-tests", action="store_true", help="only build and measure")
    args = parser.parse_args()
    stages = [stage.name for stage in STAGES if "cuda" in stage.devices]
    if not torch.cuda.is_available():
        print(
            "torch sees no GPU. Left out: build with CUDA kernels, pytest -m cuda, and the rows of"
        )
        print(", ".join(stages) + ". Nothing was measured, nothing was written.")
        return 0
    began = time.perf_counter()
    name = torch.cuda.get_device_name().lower().replace("nvidia", "").split()
    out = args.out or ROOT / "bench" / "results" / f"{time.strftime('%F')}-{'-'.join(name)}"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, into {out}", flush=True)

    def left() -> float:
        return max(1.0, 60 * args.minutes - (time.perf_counter() - began))

    if not step("build", ["bash", "tests/gpu.sh", "--build"], min(left(), 400)):
        return 1
    tested = args.no_tests or step("tests", ["bash", "tests/gpu.sh", "--tests"], min(left(), 300))
    rows = [sys.executable, "bench/all.py", "--device", "cuda", "--out", str(out)]
    rows += ["--minutes", f"{left() / 60 - 0.5:.2f}"] + ["--quick"] * args.quick
    rows += ["--resume"] * args.resume
    measured = step("rows", rows, left(), PYTHONPATH=str(ROOT / "build" / "gpu" / "python"))
    print(f"tests {'ok' if tested else 'NOT ok'}, rows {'ok' if measured else 'NOT ok'}, in {out}")
    return int(not (tested and measured))


if __name__ == "__main__":
    sys.exit(main())
