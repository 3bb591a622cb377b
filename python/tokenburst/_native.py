"""The compiled half: importing `_C` registers every op; CUDA kernels are opened beside a GPU."""

import sys
from pathlib import Path
from typing import Any

import torch

# A second copy that defines the same ops would end the process in its static initialisers, where no
# except clause reaches.
if "tokenburst._C" not in sys.modules and any(
    name.startswith("tokenburst::") for name in torch._C._dispatch_get_all_op_names()
):
    raise ImportError(
        "tokenburst: another copy of the package has already registered its ops in this process; "
        "keep one copy on sys.path and restart Python"
    )

try:
    from tokenburst import _C
except ImportError as error:
    raise ImportError(
        f"tokenburst: the compiled module cannot be loaded ({error}). Install the package for this "
        "Python with `pip install .`; it needs torch >= 2.11"
    ) from error

_C.isa()  # an impossible TOKENBURST_ISA fails the import with its sentence

__version__: str = _C.version

_CUDA_LIBRARY = Path(_C.__file__).with_name("libtokenburst_cuda.so")


def _open_cuda() -> str:
    """'' when the CUDA kernels are ready, otherwise one sentence that says why not."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if not _CUDA_LIBRARY.exists():
        return "this build has no CUDA kernels (built without nvcc or with TOKENBURST_CUDA=off)"
    return _C.load_cuda(str(_CUDA_LIBRARY))


cuda_missing: str = _open_cuda()


def op_names() -> list[str]:
    """Names of all registered ops, without the namespace."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted({n.split("::")[1].split(".")[0] for n in names if n.startswith("tokenburst::")})


# Inference ops: gradients stop here, as for any op without a formula, but no autograd node is
# recorded either.
_autograd = torch.library.Library("tokenburst", "IMPL")
for _name in op_names():
    _autograd.impl(_name, torch.library.fallthrough_kernel, "Autograd")


def build_info() -> dict[str, Any]:
    """Versions, instruction set, CUDA state and the implementations of each op, as plain data."""
    cuda = "ready" if not cuda_missing else f"not used: {cuda_missing}"
    return {
        "version": __version__,
        "build_id": _C.build_id,
        "torch": torch.__version__,
        "cpu_isa": _C.isa(),
        "cuda": cuda,
        "cuda_library": str(_CUDA_LIBRARY) if _CUDA_LIBRARY.exists() else None,
        "ops": {
            name: {"cpu": _C.isa(), "cuda": "cuda" if _C.cuda_has(name) else "none"}
            for name in op_names()
        },
    }
