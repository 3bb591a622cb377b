"""The engine around the policies: guidance, batches that thin out, traces and streams."""

import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.caches import DelayedCache, DualCache, PrefixCache
from tokenburst.decoders.diffusion import DiffusionDecoder, diffusion_generate
from tokenburst.decoders.streaming import Deltas, Stream
from tokenburst.decoders.unmasking import LowConfidence

MASK = VOCAB - 1
CACHES = [None, PrefixCache(), DualCache(1), DelayedCache()]


def decoder(policy, cache=None, device="cpu"):
    model = tiny_model("llama", torch.float32, False).to(device)
    return DiffusionDecoder(model, policy, cache=cache, mask_id=MASK)


def guided(model, prompt, weight, length):
    """Greedy decoding from the left, one token a forward."""
    x = torch.cat([prompt, torch.full((length,), MASK)])
    for i in range(len(prompt), len(x)):
        hidden = torch.where(torch.arange(len(x)) < len(prompt), MASK, x)
        with torch.no_grad():
            given, free = (model(y[None]).logits[0, i] for y in (x, hidden))
        logits = free + (weight + 1) * (given - free)
        logits[MASK] = -torch.inf
        x[i] = logits.argmax()
    return x


@pytest.mark.parametrize("cache", [None, DualCache(refresh=1)], ids=str)
def test_guidance_sets_the_prompt_against_its_absence(cache):
    d = decoder(LowConfidence(), cache)
    ids, mask = prompts(3, 6, seed=1, ragged=True)
    weights = torch.tensor([0.0, 1.5, 4.0])
    got = d.generate(ids, mask, gen_length=5, block_length=1, guidance=weights)
    for b in range(3):
        row = ids[b, mask[b] == 1]
        want = guided(d.model, row, float(weights[b]), 5)
        assert got.sequences[b, -5:].tolist() == want[-5:].tolist()
    same = d.generate(ids, mask, gen_length=5, block_length=1)
    assert torch.equal(same.sequences[0], got.sequences[0])
    for weight in (-1.0, torch.tensor([1.0]), torch.tensor([1.0, 2.0, torch.nan])):
        with pytest.raises(ValueError, match="guidance: expected a number >= 0 or 3 of them"):
            d.generate(ids, mask, gen_length=5, guidance=weight)


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_rows_that_are_done_leave_the_batch(cache, monkeypatch):
    d = decoder(LowConfidence(), cache)
    ids, mask = prompts(5, 6, seed=3, ragged=True)
    lengths = torch.tensor([8, 2, 4, 2, 2])
    sizes, run = [], d.model.base_model.forward

    def counted(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(d.model.base_model, "forward", counted)
    got = d.generate(ids, mask, gen_length=lengths, block_length=2, guidance=1.0)
    assert sizes == [10, 10, 4, 4, 2, 2, 2, 2]  # twice the rows: guidance
    monkeypatch.undo()
    for b in range(5):
        row, n = ids[b : b + 1, mask[b] == 1], int(lengths[b])
        alone = d.generate(row, gen_length=n, block_length=2, guidance=1.0)
        assert got.sequences[b, 6 : 6 + n].tolist() == alone.sequences[0, -n:].tolist()


def test_the_trace_holds_what_each_step_saw():
    d = decoder(LowConfidence(tokens_per_step=2))
    ids, mask = prompts(2, 6, seed=4, ragged=True)
    out = d.generate(ids, mask, gen_length=8, block_length=4, trace=True)
    trace = out.stats.trace
    assert len(trace) == out.stats.forwards == 4
    assert sum(t.committed.sum(1) for t in trace).tolist() == out.stats.new_tokens
    for t in trace:
        assert bool((t.masked | ~t.committed).all()) and bool((t.confidence[t.masked] > 0).all())
        lengths = mask.sum(1)[:, None]
        new = out.sequences.gather(1, (t.position - lengths + 6).clamp(min=0))
        assert torch.equal(t.token[t.committed], new[t.committed])
    assert d.generate(ids, mask, gen_length=8).stats.trace is None


class Heard:
    def __init__(self):
        self.puts, self.ended = [], False

    def put(self, ids):
        assert not self.ended
        self.puts.append(ids.flatten().tolist())

    def end(self):
        self.ended = True

    def all(self):
        return [token for put in self.puts for token in put]


def test_tokens_stream_from_left_to_right_and_changes_as_they_come():
    d = decoder(LowConfidence(tokens_per_step=2))
    ids, _ = prompts(1, 5, seed=5)
    heard, board = Heard(), torch.full((1, 13), -1)
    options = {"gen_length": 8, "block_length": 4}
    stream = Stream(heard, 5, MASK)
    out = d.generate(ids, callback=stream, **options)
    stream.end()
    assert heard.ended and heard.puts[0] == ids[0].tolist() and len(heard.puts) > 2
    assert heard.all() == out.sequences[0].tolist()

    def change(forwards, row, position, token):
        assert len(token) == (13 if forwards == 1 else 2)
        board[row, position] = token

    d.generate(ids, callback=Deltas(change), **options)
    assert torch.equal(board, out.sequences)

    end = int(out.sequences[0, 7])
    heard = Heard()
    hook = {"custom_generate": diffusion_generate, "mask_id": MASK, "unmasking": d.unmasking}
    stream = Stream(heard, 5, MASK, [end])
    got = d.model.generate(
        ids,
        callback=stream,
        eos_token_id=end,
        pad_token_id=0,
        kv_cache=DualCache(),
        **hook,
        **options,
    )
    assert heard.all()[-1] == end
    assert heard.all() == got[0, : len(heard.all())].tolist()
    with pytest.raises(ValueError, match="Stream: expected one sequence, got 2"):
        stream(1, out.sequences.repeat(2, 1))
