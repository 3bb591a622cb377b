"""Every CUDA kernel of the catalogue on the samples of its op, against the reference, without a GPU."""

import dataclasses

import pytest
import torch

import executor
import tokenburst as tb
from compare import assert_same
from test_catalogue import CASES, reference

EVERY_WAY = [(checked, s) for checked in (False, True) for s in ("forward", "reverse", "shuffled")]


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_equals_reference(op, sample):
    ref_args, ref_kwargs = sample.make(torch.device("cpu"))
    want = reference(op)(*ref_args, **ref_kwargs)
    exact = dataclasses.replace(sample, atol=0.0, rtol=0.0, fields={})
    first = None
    for checked, schedule in EVERY_WAY:
        with executor.running(op, checked=checked, schedule=schedule):
            args, kwargs = sample.make(torch.device("cpu"))
            got = getattr(tb.ops, op)(*args, **kwargs)
        assert_same(op, sample, got, want)
        assert_same(op, sample, (args, kwargs), (ref_args, ref_kwargs))
        first = first or (got, args)
        assert_same(op, exact, (got, args), first)
