"""Fixtures for the whole suite."""

import pytest
import torch

from tokenburst import _C

_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config, items):
    """Without a GPU its tests are left out; the summary counts them and says why."""
    if torch.cuda.is_available() or config.option.collectonly:
        return
    left_out = [item for item in items if item.get_closest_marker("cuda")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter, config):
    left_out = config.stash.get(_LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(
            f"{left_out} tests need a GPU, torch sees none; tests/simt runs their kernels here"
        )


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
