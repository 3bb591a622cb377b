"""Conversations that keep their KV: turn after turn the text of a fresh call."""

import pytest
import torch

import tokenburst as tb
from guesses import RandomDrafter
from tiny import VOCAB, prompts, tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heat", [0.0, 0.7])
@pytest.mark.parametrize("drafter", ["none", "recycling", "random"])
def test_turns_equal_fresh_calls(dtype, heat, drafter):
    model = tiny_model("qwen2", dtype)
    make = {
        "none": lambda: None,
        "recycling": lambda: tb.TokenRecycling("4x2x1"),
        "random": lambda: RandomDrafter(7, VOCAB),
    }[drafter]
    decoder, session = tb.TreeDecoder(model, make()), tb.Session()
    options = {"temperature": heat, "max_new_tokens": [7, 12, 3], "pad_token_id": VOCAB - 1}
    talk = [row[m != 0] for row, m in zip(*prompts(3, 10, 8, ragged=True), strict=True)]
    new = [0, 0, 0]
    for turn in range(4):
        width = max(map(len, talk))
        ids = torch.full((3, width), VOCAB - 1)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(talk):
            ids[row, width - len(text) :], mask[row, width - len(text) :] = text, 1
        got = decoder.generate(ids, mask, session=session, **options)
        want = tb.TreeDecoder(model).generate(ids, mask, **options)
        assert torch.equal(got.sequences, want.sequences)
        if turn:
            assert session.reused == [
                len(text) - said for text, said in zip(talk, new, strict=True)
            ]
        new = [5 + turn, 2, 6]
        for row, said in enumerate(new):
            answer = got.sequences[row, width : width + got.stats.new_tokens[row]]
            question = torch.randint(0, VOCAB - 1, (said - 1,))
            talk[row] = torch.cat([talk[row], answer, question])


def test_text_that_was_edited_is_scored_again():
    model, session = tiny_model("llama", torch.float32), tb.Session()
    ids, _ = prompts(1, 20, 3)
    decoder = tb.TreeDecoder(model, tb.TokenRecycling("4x2x1"))
    decoder.generate(ids, max_new_tokens=8, session=session)
    ids[0, 6] = (ids[0, 6] + 1) % VOCAB
    got = decoder.generate(ids, max_new_tokens=8, session=session)
    assert session.reused == [6]
    assert torch.equal(got.sequences, decoder.generate(ids, max_new_tokens=8).sequences)
    again = decoder.generate(ids, max_new_tokens=8, session=session)
    assert session.reused == [19] and torch.equal(again.sequences, got.sequences)


def test_a_turn_that_failed_leaves_nothing_behind():
    model, session = tiny_model("llama", torch.float32), tb.Session()
    ids, _ = prompts(2, 9, 3)
    decoder = tb.TreeDecoder(model)

    def fail(tokens, counts):
        raise KeyboardInterrupt

    decoder.generate(ids, max_new_tokens=4, session=session)
    with pytest.raises(KeyboardInterrupt):
        decoder.generate(ids, max_new_tokens=[1, 6], session=session, callback=fail)
    got = decoder.generate(ids, max_new_tokens=6, session=session)
    assert session.reused == [0, 0]
    assert torch.equal(got.sequences, decoder.generate(ids, max_new_tokens=6).sequences)


def test_refused():
    session, ids = tb.Session(), prompts(2, 6, 0)[0]
    model = tiny_model("llama", torch.float32)
    tb.TreeDecoder(model).generate(ids, max_new_tokens=2, session=session)
    with pytest.raises(ValueError, match="session: expected 2 rows as before, got 1"):
        tb.TreeDecoder(model).generate(ids[:1], session=session)
    with pytest.raises(ValueError, match="session: expected the model it began with"):
        tb.TreeDecoder(tiny_model("qwen2", torch.float32)).generate(ids, session=session)
