"""A device that must not be asked: for tests of what runs between two answers."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ASKS = {"local_scalar_dense", "nonzero", "masked_select", "unique", "unique2", "equal"}
READS = ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__")
READERS = {getattr(torch.Tensor, name): name for name in (*READS, "__index__")}


class _Ops(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert name.lstrip("_") not in ASKS, f"{name} asks the host"
        if name in ("index", "index_put_"):
            masks = [t for t in args[1] if t is not None and t.dtype == torch.bool]
            assert not masks, "an index by a mask has a size that only the device knows"
        return func(*args, **kwargs or {})


class NoQuestions(TorchFunctionMode):
    """Raises where a GPU would have to be waited for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in READERS, f"{READERS[func]} asks the host"
        return func(*args, **kwargs or {})

    def __enter__(self):
        self._ops = _Ops()
        self._ops.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._ops.__exit__(*exception)


class Told:
    """Values that have arrived."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values

    def __int__(self):
        return self.values


class LateOnCpu:
    """`LateCopy` as it behaves on a GPU."""

    late = True

    def __init__(self, device, lag=2):
        self.lag, self.copies = lag, []

    def __call__(self, value):
        with torch._C.DisableTorchFunction():
            self.copies.append(value.tolist())
        return Told(self.copies[-1 - self.lag]) if len(self.copies) > self.lag else None
