"""Where texts end: stop strings, lengths by row, rows that leave the batch; streams and hooks."""

from itertools import chain

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LogitsProcessorList, PreTrainedTokenizerFast, StoppingCriteriaList
from transformers.generation import logits_process as processors
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.generation.streamers import BaseStreamer

import tokenburst as tb
from guesses import RandomDrafter
from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.tree import stop_criteria
from tokenburst.decoders.treerun import TreeRun

MODEL = tiny_model("llama", torch.float32)
FREE = {"eos_token_id": None, "pad_token_id": 0}


def letters():
    """A tokenizer of pieces: every id is one or two of the letters a .. d."""
    pieces = [a + b for a in ["", *"abcd"] for b in "abcd"]
    pieces += [a + b + c for a in "abcd" for b in "abcd" for c in "abcd"][: VOCAB - 1 - len(pieces)]
    pieces.append("abcdef")  # what transformers tries a tokenizer on
    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, "a"))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize("heat", [0.0, 0.9])
def test_stop_strings_end_rows_where_transformers_ends_them(heat):
    ids, mask = prompts(4, 11, 6, ragged=True)
    tokenizer, stops = letters(), ["abc", "dd", "bcab"]
    options = {"max_new_tokens": 30, "temperature": heat, "pad_token_id": VOCAB - 1}
    free = tb.TreeDecoder(MODEL).generate(ids, mask, **options).sequences
    criteria = stop_criteria(stops, tokenizer)
    for drafter in (None, tb.TokenRecycling("4x2x1"), RandomDrafter(7, VOCAB)):
        out = tb.TreeDecoder(MODEL, drafter).generate(
            ids, mask, **options, stop_strings=stops, tokenizer=tokenizer
        )
        for row, length in enumerate(out.stats.new_tokens):
            assert torch.equal(out.sequences[row, : 11 + length], free[row, : 11 + length])
            ends = [
                bool(criteria(free[row, mask[row].argmax() : 12 + i][None], None))
                for i in range(length)
            ]
            assert not any(ends[:-1]) and (ends[-1] or length == 30)
            assert (out.sequences[row, 11 + length :] == VOCAB - 1).all()
    assert min(out.stats.new_tokens) < 30
    with pytest.raises(ValueError, match="stop_strings: expected text and a tokenizer, got no tok"):
        tb.TreeDecoder(MODEL).generate(ids, mask, stop_strings="abc")


@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_rows_leave_and_results_stay(heat, monkeypatch):
    ids, mask = prompts(9, 10, 4, ragged=True)
    limit = torch.tensor([3, 17, 1, 9, 17, 2, 0, 5, 12])
    sizes, leave = [], TreeRun._leave
    monkeypatch.setattr(
        TreeRun, "_leave", lambda run, still: sizes.append(still) or leave(run, still)
    )
    for drafter in (tb.TokenRecycling("4x2x1"), RandomDrafter(6, VOCAB)):
        options = {"temperature": heat, "seed": 2, "repetition_penalty": 1.0 + heat / 2}
        out = tb.TreeDecoder(MODEL, drafter).generate(ids, mask, max_new_tokens=limit, **options)
        assert out.stats.new_tokens == limit.tolist()
        for row in range(9):
            alone = tb.TreeDecoder(MODEL).generate(
                ids[row, mask[row] != 0][None],
                max_new_tokens=int(limit[row]),
                sequence_ids=[row],
                **options,
            )
            new = alone.sequences[0, int(mask[row].sum()) :]
            assert torch.equal(out.sequences[row, 10 : 10 + len(new)], new)
    assert len(sizes) > 2 and len(sizes[0]) == 9 > len(sizes[1])


class Heard(BaseStreamer):
    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_streamer_hears_the_prompt_and_every_token_once():
    ids, _ = prompts(1, 9, 1)
    heard = Heard()
    decoder = tb.TreeDecoder(MODEL, tb.TokenRecycling("4x2x1"))
    out = decoder.generate(ids, max_new_tokens=20, streamer=heard)
    assert heard.ended and heard.parts[0] == ids[0].tolist()
    assert list(chain(*heard.parts)) == out.sequences[0].tolist()
    with pytest.raises(ValueError, match="streamer: expected one sequence, got 2"):
        decoder.generate(ids.expand(2, -1), streamer=heard)
    heard = Heard()
    MODEL.generate(ids, custom_generate=tb.token_recycling, max_new_tokens=20, stream=heard, **FREE)
    assert heard.ended and list(chain(*heard.parts)) == out.sequences[0].tolist()


def test_hook_takes_what_transformers_was_told():
    ids, mask = prompts(3, 12, 2, ragged=True)
    told = {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "repetition_penalty": 1.2}
    want = tb.TreeDecoder(MODEL).generate(ids, mask, max_new_tokens=10, seed=4, **told).sequences
    hook = {"custom_generate": tb.tree_generate, "attention_mask": mask, "max_new_tokens": 10}
    got = MODEL.generate(
        ids, do_sample=True, drafter=RandomDrafter(5, VOCAB), seed=4, **told, **hook, **FREE
    )
    assert torch.equal(got, want)
    torch.manual_seed(1)
    drawn = [MODEL.generate(ids, do_sample=True, **hook, **FREE) for _ in range(2)]
    torch.manual_seed(1)
    assert torch.equal(MODEL.generate(ids, do_sample=True, **hook, **FREE), drawn[0])
    assert not torch.equal(*drawn)
    stops = {"stop_strings": ["abc", "dd"], "tokenizer": letters()}
    want = tb.TreeDecoder(MODEL).generate(ids, mask, max_new_tokens=10, pad_token_id=0, **stops)
    criteria = StoppingCriteriaList([StopStringCriteria(letters(), ["abc", "dd"])])
    got = MODEL.generate(ids, stopping_criteria=criteria, **hook, **FREE)
    assert torch.equal(got, want.sequences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams: expected 1, got 2"),
        ({"no_repeat_ngram_size": 2}, "logits_processor: expected at most Repetition.*NoRepeatN"),
        ({"do_sample": True, "typical_p": 0.5}, "logits_processor: expected at most .*Typical"),
        ({"max_time": 1.0}, "stopping_criteria: expected none, got MaxTimeCriteria"),
        ({"verify": "best"}, "verify: expected one of walk"),
    ],
)
def test_hook_refuses_what_it_cannot_do(options, message):
    ids, _ = prompts(1, 5, 0)
    with pytest.raises(ValueError, match=message):
        MODEL.generate(ids, custom_generate=tb.tree_generate, max_new_tokens=4, **options)


def test_hook_refuses_processors_in_another_order():
    swapped = [processors.TopKLogitsWarper(3), processors.TemperatureLogitsWarper(0.5)]
    with pytest.raises(ValueError, match="in this order and over the whole text, got TopK"):
        tb.tree_generate(MODEL, prompts(1, 5, 0)[0], LogitsProcessorList(swapped))
