"""Every CUDA kernel of the catalogue, run on the CPU through its front door and launcher.

A new op joins by being in the catalogue. Every sample runs in three schedules; the small ones also
with every memory access checked.
"""

import dataclasses
import zlib

import pytest
import torch

import executor
import tokenburst as tb
from agreement import assert_same
from samples import SAMPLES
from test_catalogue import CASES, OPS, reference

SMALL = 1 << 15  # tensor elements of a sample whose memory accesses are checked
PLAIN = [(False, schedule) for schedule in ("forward", "reverse", "shuffled")]
CHECKED = [(True, schedule) for schedule in ("reverse", "shuffled")]


def tensors(value):
    """All tensors of a call's arguments, lists included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def is_small(sample):
    return sum(t.numel() for t in tensors(sample.make(torch.device("cpu")))) <= SMALL


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_equals_reference(op, sample):
    ref_args, ref_kwargs = sample.make(torch.device("cpu"))
    want = reference(op)(*ref_args, **ref_kwargs)
    exact = dataclasses.replace(sample, atol=0.0, rtol=0.0, fields={})
    first = None
    for checked, schedule in PLAIN + (CHECKED if is_small(sample) else []):
        with executor.running(op, checked=checked, schedule=schedule):
            args, kwargs = sample.make(torch.device("cpu"))
            got = getattr(tb.ops, op)(*args, **kwargs)
        assert_same(op, sample, got, want)
        assert_same(op, sample, (args, kwargs), (ref_args, ref_kwargs))
        first = first or (got, args)
        assert_same(op, exact, (got, args), first)  # bit for bit in every order


@pytest.mark.parametrize("op", OPS)
def test_small_samples_exist(op):
    assert any(is_small(sample) for sample in SAMPLES[op]), f"{op}: no sample has checked accesses"


def spoil(tensor, generator):
    """Puts values that no caller should pass into about a third of a tensor."""
    if tensor.dtype == torch.bool or not tensor.numel():
        return
    if tensor.is_floating_point():
        wild = torch.tensor([float("nan"), float("inf"), float("-inf"), -3e4, 0.0, 1e-30])
    else:
        top = torch.iinfo(tensor.dtype).max
        wild = torch.tensor([-1, -2, 0, 1, 7, 31, 33, 1000, 2**31 - 1, -(2**31), top, -top - 1])
    pick = torch.randint(len(wild), tensor.shape, generator=generator)
    where = torch.rand(tensor.shape, generator=generator) < 0.3
    tensor.copy_(torch.where(where, wild[pick].to(tensor.dtype), tensor))


@pytest.mark.parametrize("op", OPS)
def test_any_value_is_survived(op):
    # On a GPU values cannot be refused: whatever they are, no access may leave its tensor.
    for sample in filter(is_small, SAMPLES[op]):
        generator = torch.Generator().manual_seed(zlib.crc32(sample.id.encode()))
        for _ in range(3):
            with executor.running(op, checked=True):
                args, kwargs = sample.make(torch.device("cpu"))
                for tensor in tensors([args, kwargs]):
                    spoil(tensor, generator)
                getattr(tb.ops, op)(*args, **kwargs)
