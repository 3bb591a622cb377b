"""The ops under torch.compile: whole graphs, static and dynamic shapes."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import tokenburst as tb
from agreement import assert_same
from samples import SAMPLES
from samples.attention import attend
from tokenburst import _native


def compiled_equals_eager(op, samples, **options):
    torch._dynamo.reset()
    function = getattr(tb.ops, op)
    compiled = torch.compile(lambda *a, **k: function(*a, **k), fullgraph=True, **options)
    for sample in samples:
        args, kwargs = sample.make(torch.device("cpu"))
        eager_args, eager_kwargs = copy.deepcopy((args, kwargs))
        got, want = compiled(*args, **kwargs), function(*eager_args, **eager_kwargs)
        assert_same(op, sample, (got, args, kwargs), (want, eager_args, eager_kwargs))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("op", _native.op_names())
def test_whole_graph(op, dynamic):
    samples = [sample for sample in SAMPLES[op] if sample.opcheck]
    samples = samples if dynamic else samples[:3]  # static shapes compile once per sample
    with torch._dynamo.config.patch(recompile_limit=64):
        compiled_equals_eager(op, samples, backend="aot_eager", dynamic=dynamic)


@pytest.mark.parametrize("kind", ["tree", "chain", "window", "pages"])
def test_lengths_of_attn_tree_compile_once_more_at_most(kind):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        lambda *a, **k: tb.ops.attn_tree(*a, **k), fullgraph=True, backend=counter
    )
    shape = "random" if kind == "tree" else "causal"
    window, page = (20 if kind == "window" else None), (16 if kind == "pages" else None)
    for nodes, kv in ((40, 30), (90, 260), (64, 100), (33, 7), (70, 65)):
        make = attend(2, 4, 2, nodes, 16, kv, shape=shape, window=window, page=page)
        args, kwargs = make(torch.device("cpu"))
        assert torch.equal(compiled(*args, **kwargs)[0], tb.ops.attn_tree(*args, **kwargs).out)
    assert counter.frame_count <= 2


def test_inductor():
    samples = [sample for sample in SAMPLES["tree_verify_greedy"] if sample.id == "eos-stops"]
    compiled_equals_eager("tree_verify_greedy", samples, backend="inductor")
