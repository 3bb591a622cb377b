"""Between and within steps nothing is read that a GPU would have to be waited for."""

import copy

import pytest
import torch
from questions import LateOnCpu, NoQuestions

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import diffusionrun, progress
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import (
    BlockCausalCache,
    DelayedCache,
    DualCache,
    FreeCache,
    GreedyCache,
    PrefixCache,
)
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.sparsed import SparseD
from tokenburst.models.attention import installed

MASK, EOS = VOCAB - 1, (3, 17, 40)
CACHES = [None, PrefixCache(), DualCache(1), DelayedCache(3), FreeCache(8)]
RANDOM = u.LowConfidence(ranking="random")
BOLD = {"threshold": 0.1, "threshold_back": 0.14, "least": 3, "most": 5}
RULES = [u.Threshold(0.2), u.LowConfidence(6), u.EndOfText(u.Credit(u.Threshold(0.2)), EOS, 0.12)]
CASES = [
    *[(rule, {"cache": cache}) for rule in RULES for cache in CACHES],
    (RANDOM, {"cache": GreedyCache()}),
    (u.EndOfText(u.Learned(lambda c: (c * 3).clamp(max=1)), EOS, 0.12), {}),
    (u.Wino(**BOLD), {}),
    (u.Wino(**BOLD, apart=True), {}),
    (u.Stable(0.2, 0.5, 1), {"cache": DualCache()}),
    (u.Editing(u.llada2(0.2), threshold=0.3, post_steps=3), {"cache": PrefixCache()}),
    (u.ReMDM(12, eta=0.2), {}),
    (u.LowConfidence(), {"attention": SparseD(skip=0.1, block=32)}),
    (u.LowConfidence(), {"attention": SparseD(skip=0.1, block=32), "cache": DualCache()}),
    (u.Threshold(0.2), {"cache": BlockCausalCache(), "causal": True}),
]


def decoder(policy, options, device="cpu"):
    model = tiny_model("llama", torch.float32, False).to(device)
    options = dict(options)
    if options.pop("causal", False):
        model = copy.deepcopy(model)
        model.config.block_causal, model.config.block_length = True, 4
    return DiffusionDecoder(model, policy, mask_id=MASK, **options)


def generate(d, **more):
    ids, mask = (t.to(d.model.device) for t in prompts(3, 6, seed=2, ragged=True))
    block = None if d.causal_block else 4
    return d.generate(ids, mask, gen_length=12, block_length=block, **more)


def begin(d, monkeypatch, **options):
    """The state of a generation before its first step."""
    states = []
    monkeypatch.setattr(diffusionrun.DiffusionRun, "run", lambda self, *_: states.append(self))
    generate(d, **options)
    monkeypatch.undo()
    return states[0]


def next_width(state):
    """Of the next forward; None where all rows are done."""
    active, *asked = state.news()
    return state.scorer.width(asked[state.rests :]) if any(active) else None


MORE = [{}, {"temperature": 0.5, "eos_token_id": 3, "guidance": 1.0}]


@pytest.mark.parametrize(
    ("policy", "options", "more"), [(*case, MORE[i % 2]) for i, case in enumerate(CASES)], ids=str
)
def test_a_step_asks_nothing_and_ends_where_it_began(policy, options, more, monkeypatch):
    d = decoder(policy, options)
    want, state = (begin(d, monkeypatch, **more) for _ in "ab")
    state.settle()
    homes = {n: v.data_ptr() for n, v in vars(state).items() if isinstance(v, torch.Tensor)}
    with torch.inference_mode(), installed(d.model):
        while (width := next_width(want)) is not None:
            want.advance(width)
            assert next_width(state) == width
            with NoQuestions():
                state.advance(width)
            assert torch.equal(state.task.x, want.task.x)
    assert next_width(state) is None
    now = {n: v.data_ptr() for n, v in vars(state).items() if isinstance(v, torch.Tensor)}
    assert {name: now[name] for name in homes} == homes


class Silent(installed):
    """A model that is installed, and a device that must not be asked."""

    def __enter__(self):
        self.questions = NoQuestions()
        self.questions.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.questions.__exit__(*exception)


@pytest.mark.parametrize(("policy", "options"), CASES, ids=str)
def test_what_is_told_late_changes_no_token(policy, options, monkeypatch):
    d = decoder(policy, options)
    want = generate(d, guidance=0.5)
    for module in (diffusionrun, progress):
        monkeypatch.setattr(module, "LateCopy", LateOnCpu)
    monkeypatch.setattr(diffusionrun, "installed", Silent)
    got = generate(d, guidance=0.5, progress=True)
    assert torch.equal(got.sequences, want.sequences)
    assert (got.stats.steps, got.stats.new_tokens) == (want.stats.steps, want.stats.new_tokens)
    blocks = len(want.stats.steps[0])
    cached = options.get("cache") is not None and "attention" not in options
    assert want.stats.forwards <= got.stats.forwards
    # One step that is told late to be the last; beside a cache rows wait once for a wide step.
    assert got.stats.forwards <= want.stats.forwards * (1 + cached) + 1
    assert blocks > 1


@pytest.mark.cuda
@pytest.mark.parametrize(("policy", "options"), CASES, ids=str)
def test_a_step_is_captured_and_replayed(policy, options, monkeypatch):
    d = decoder(policy, options, "cuda")
    want, state = begin(d, monkeypatch), begin(d, monkeypatch)
    graphs = {}
    with torch.inference_mode(), installed(d.model):
        for step in range(8):
            width = want.scorer.fed.shape[1]
            want.advance(width)
            if step < 3:
                state.advance(width)
            else:
                if width not in graphs:
                    graphs[width] = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graphs[width]):
                        state.advance(width)
                graphs[width].replay()
            assert torch.equal(state.task.x, want.task.x)
    d.model.to("cpu")
