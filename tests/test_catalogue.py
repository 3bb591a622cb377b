"""Every op has all its parts, and they agree. A new schema fails here until it is complete."""

import copy
import dataclasses
import importlib
import inspect

import pytest
import torch

import tokenburst as tb
from agreement import assert_same
from samples import SAMPLES
from tokenburst import _native

OPS = _native.op_names()
CASES = [pytest.param(op, s, id=f"{op}-{s.id}") for op in OPS for s in SAMPLES.get(op, [])]


def reference(op: str):
    for room in ("tree", "vocab", "attention", "sparsed", "recycle", "ngram", "unmask"):
        try:
            module = importlib.import_module(f"tokenburst.ref.{room}")
        except ModuleNotFoundError:
            continue
        if hasattr(module, op):
            return getattr(module, op)
    return None


@pytest.mark.parametrize("op", OPS)
def test_every_part_exists(op):
    assert SAMPLES.get(op), f"{op}: no samples"
    assert reference(op), f"{op}: no reference in tokenburst.ref"
    public = getattr(tb.ops, op, None)
    assert public, f"{op}: no public function in tokenburst.ops"
    for key in ("CPU", "CUDA", "Meta"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tokenburst::{op}", key), (
            f"{op}: {key}"
        )
    assert (
        inspect.signature(public).parameters.keys()
        == inspect.signature(reference(op)).parameters.keys()
    )
    doc = inspect.getdoc(public) or ""
    for part in ("Args:", "Raises:", "Source:"):
        assert part in doc, f"{op}: the docstring lacks '{part}'"


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_equals_reference(op, sample, isa):
    args, kwargs = sample.make(torch.device("cpu"))
    ref_args, ref_kwargs = copy.deepcopy((args, kwargs))
    got = getattr(tb.ops, op)(*args, **kwargs)
    want = reference(op)(*ref_args, **ref_kwargs)
    assert_same(op, sample, got, want)
    assert_same(op, sample, (args, kwargs), (ref_args, ref_kwargs))  # mutated alike, or not at all


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_cuda_equals_reference(op, sample):
    args, kwargs = sample.make(torch.device("cuda"))
    ref_args, ref_kwargs = sample.make(torch.device("cpu"))
    got = getattr(tb.ops, op)(*args, **kwargs)
    want = reference(op)(*ref_args, **ref_kwargs)
    assert_same(op, sample, got, want)
    assert_same(op, sample, (args, kwargs), (ref_args, ref_kwargs))


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_cuda_graph_replays_the_call(op, sample):
    # Capture fails on a synchronisation or on an allocation outside torch's allocator.
    function = getattr(tb.ops, op)
    warm_args, warm_kwargs = sample.make(torch.device("cuda"))
    function(*warm_args, **warm_kwargs)
    args, kwargs = sample.make(torch.device("cuda"))
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = function(*args, **kwargs)
    graph.replay()
    torch.cuda.synchronize()
    want_args, want_kwargs = sample.make(torch.device("cuda"))
    want = function(*want_args, **want_kwargs)
    exact = dataclasses.replace(sample, atol=0.0, rtol=0.0, fields={})
    assert_same(op, exact, (captured, args), (want, want_args))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_opcheck(op, sample, device):
    if sample.opcheck:
        args, kwargs = sample.make(torch.device(device))
        torch.library.opcheck(getattr(torch.ops.tokenburst, op).default, args, kwargs)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_thread_count_does_not_matter(op, sample):
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        args, kwargs = sample.make(torch.device("cpu"))
        results.append((getattr(tb.ops, op)(*args, **kwargs), args))
    torch.set_num_threads(before)
    exact = dataclasses.replace(sample, atol=0.0, rtol=0.0, fields={})
    for other in results[1:]:
        assert_same(op, exact, other, results[0])
