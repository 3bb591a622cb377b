"""A step asks the host nothing and keeps its shapes, so that one CUDA graph can hold it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tokenburst as tb
from guesses import TableDrafter
from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.graph import Captured
from tokenburst.decoders.treerun import TreeRun

READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"}
FROM_HOST = {"aten::lift_fresh", "aten::masked_select"}
METHODS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class WithoutHost(TorchDispatchMode):
    """Refuses what would wait for a GPU or copy to it, and shapes that depend on values."""

    def __init__(self, monkeypatch):
        super().__init__()
        self._patch = monkeypatch

    def __enter__(self):
        for name in METHODS:
            self._patch.setattr(torch.Tensor, name, _refuse(name))
        return super().__enter__()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op._schema.name
        if name in READS | FROM_HOST:
            raise AssertionError(f"{name} in a step")
        for arg in args:
            if isinstance(arg, (list, tuple)):
                for index in arg:
                    if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
                        assert name != "aten::index", "boolean indexing in a step"
        return op(*args, **(kwargs or {}))


def _refuse(name):
    def refused(*args, **kwargs):
        raise AssertionError(f"Tensor.{name} in a step")

    return refused


def draft_model(shape):
    return tb.DraftModel(tiny_model("llama", torch.float32), shape)


Q = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1))
DRAFTERS = {
    "plain": lambda: None,
    "recycling": lambda: tb.TokenRecycling("4x2x1"),
    "lookup": lambda: tb.PromptLookup(4),
    "stand": lambda: tb.Stand("4x2x1", slots=512),
    "model": lambda: draft_model(tb.Branching((2, 1))),
    "online": lambda: tb.RejectionRecorder(draft_model(tb.Chain(2)), candidates=4),
    "merged": lambda: tb.Merged(
        [draft_model(tb.Chain(2)), tb.TokenRecycling("4x2x1"), tb.PromptLookup(3)]
    ),
    "chain": lambda: TableDrafter(Q, (1, 1, 1), "block"),
    "tree": lambda: TableDrafter(Q, (2, 2), "rrs"),
    "draws": lambda: TableDrafter(Q, (3,), "kseq", replacement=True),
}
HEAT = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1, "eos_token_id": VOCAB - 1}


@pytest.mark.parametrize("options", [{}, {"eos_token_id": 3}, HEAT], ids=["free", "eos", "sampled"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_step_never_asks_the_host(drafter, options, monkeypatch, made=None):
    steps, step = [], TreeRun._step

    def watched(run):
        text, cache = run.text, run.target.cache
        kept = [text.tokens, text.root, text.length, text.active, text.rng, cache.kv_len]
        with pytest.MonkeyPatch.context() as patch, WithoutHost(patch):
            path = step(run)
        now = [text.tokens, text.root, text.length, text.active, text.rng, cache.kv_len]
        assert all(a is b for a, b in zip(kept, now, strict=True))  # changed in place
        steps.append(path.shape)
        return path

    monkeypatch.setattr(TreeRun, "_step", watched)
    ids, mask = prompts(3, 12, 5, ragged=True)
    decoder = tb.TreeDecoder(tiny_model("llama", torch.float32), made or DRAFTERS[drafter]())
    decoder.generate(ids, mask, max_new_tokens=12, **options)
    assert len(steps) > 1 and len({shape[1:] for shape in steps}) == 1


@pytest.mark.parametrize("mode", ["walk", "rrs", "rrs_wr", "lossy_typical", "lossy_grouped"])
def test_nor_does_any_mode(mode, monkeypatch):
    step = TreeRun._step

    def watched(run):
        with pytest.MonkeyPatch.context() as patch, WithoutHost(patch):
            return step(run)

    monkeypatch.setattr(TreeRun, "_step", watched)
    decoder = tb.TreeDecoder(tiny_model("llama", torch.float32), tb.TokenRecycling("4x2x1"))
    decoder.generate(prompts(2, 9, 1)[0], max_new_tokens=6, temperature=1.0, verify=mode)


class Asking(TableDrafter):
    """Asks the device whether to draft."""

    def draft(self, state):
        return super().draft(state) if self.ask(state.active) else None


ASK = {
    "bool": lambda x: bool(x.any()),
    "item": lambda x: x.sum().item(),
    "list": lambda x: all(x.tolist()),
    "index": lambda x: x[x].shape[0],
    "copy": lambda x: (x == torch.tensor(True)).any(),
}


@pytest.mark.parametrize("how", ASK)
def test_the_test_notices_who_asks(how, monkeypatch):
    drafter = Asking(Q, (1,), "walk")
    drafter.ask = ASK[how]
    with pytest.raises(AssertionError, match="in a step"):
        test_a_step_never_asks_the_host(None, {}, monkeypatch, drafter)


def test_off_a_gpu_a_captured_step_is_the_step():
    calls = []
    captured = Captured(lambda: calls.append(0) or torch.ones(1), torch.device("cpu"))
    assert [float(captured()) for _ in range(3)] == [1.0] * 3 and len(calls) == 3


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("drafter", [None, "4x2x1"])
def test_captured_steps_write_the_same_text(drafter, options, monkeypatch):
    model = tiny_model("llama", torch.float32).to("cuda")
    try:
        ids, mask = prompts(4, 12, 5, ragged=True)
        lengths = [24, 9, 24, 5]  # rows leave, and the step is captured again

        def text():
            decoder = tb.TreeDecoder(model, drafter and tb.TokenRecycling(drafter))
            out = decoder.generate(ids, mask, max_new_tokens=lengths, pad_token_id=0, **options)
            return out.sequences

        captured = text()
        monkeypatch.setattr(Captured, "__call__", lambda self: self._step())
        assert torch.equal(captured, text())
    finally:
        model.to("cpu")
