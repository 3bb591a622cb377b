"""Every CUDA kernel of the catalogue on the samples of its op, against the reference, without a GPU."""

import copy

import executor
import pytest
import tokenburst as tb
import torch
from compare import assert_same
from test_catalogue import CASES, reference


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_equals_reference(op, sample):
    args, kwargs = sample.make(torch.device("cpu"))
    ref_args, ref_kwargs = copy.deepcopy((args, kwargs))
    with executor.running(op):
        got = getattr(tb.ops, op)(*args, **kwargs)
    want = reference(op)(*ref_args, **ref_kwargs)
    assert_same(op, sample, got, want)
    assert_same(op, sample, (args, kwargs), (ref_args, ref_kwargs))
