"""Fixtures for the whole suite."""

import pytest
import torch

from tokenburst import _C


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["avx2", "portable"])
def isa(request):
    """Runs a test under each instruction set that this CPU has."""
    before = _C.isa()
    try:
        _C.set_isa(request.param)
    except RuntimeError:
        assert request.param != "portable", "the portable kernels run on every CPU"
        request.param = "portable"  # without AVX2 the second run repeats the first
        _C.set_isa("portable")
    yield request.param
    _C.set_isa(before)
