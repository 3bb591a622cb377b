"""Online Speculative Decoding: what is recorded, and that acceptance rises."""

import copy

import pytest
import torch

import tokenburst as tb
from tiny import prompts, tiny_model
from tokenburst import zoo
from toys import small_model


def test_records_are_the_text_and_the_targets_word_at_rejections():
    model = tiny_model("llama", torch.float32)
    ids, mask = prompts(3, 9, 4, ragged=True)
    recorder = tb.RejectionRecorder(tb.TokenRecycling("4x2x1"), 500, width=40, candidates=3)
    out = tb.TreeDecoder(model, recorder).generate(ids, mask, max_new_tokens=[20, 9, 14])
    texts = [row[(mask[b] == 0).sum() :] for b, row in enumerate(out.sequences)]
    contexts, best, values = recorder.records()
    assert len(contexts) > 10
    for context, tokens, logits in zip(contexts, best, values, strict=True):
        known = context[context >= 0]
        assert (context[: 40 - len(known)] == -1).all()
        # It is a beginning of one of the texts, and the target's best token comes next there.
        assert any(torch.equal(known, text[: len(known)]) for text in texts)
        with torch.no_grad():
            want = model(known[None]).logits[0, -1].topk(3)
        assert torch.equal(tokens, want.indices)
        torch.testing.assert_close(logits, want.values, rtol=1e-3, atol=1e-3)


def test_the_ring_keeps_the_latest_and_right_guesses_leave_no_record():
    model = tiny_model("llama", torch.float32)
    ids, _ = prompts(2, 9, 4)
    recorder = tb.RejectionRecorder(tb.TokenRecycling("4x2x1"), contexts=5, width=6)
    tb.TreeDecoder(model, recorder).generate(ids, max_new_tokens=30)
    contexts, best, _ = recorder.records()
    assert contexts.shape == (5, 6) and best.shape == (5, 16) and (contexts >= 0).all()
    recorder.clear()
    assert len(recorder.records()[0]) == 0
    perfect = tb.RejectionRecorder(tb.DraftModel(model, tb.Chain(3)))
    tb.TreeDecoder(model, perfect).generate(ids, max_new_tokens=13)
    assert len(perfect.records()[0]) == 0


def test_acceptance_rises_on_a_fixed_distribution_of_prompts():
    target, small = zoo.load("pycode"), copy.deepcopy(zoo.draft("pycode"))
    tokenizer = zoo.tokenizer("pycode")
    rows = [
        tokenizer(prompt["text"], return_tensors="pt")["input_ids"][0, :24]
        for prompt in zoo.prompts("pycode")[:8]
    ]
    ids, drafter = torch.stack(rows), tb.DraftModel(small, tb.Chain(3))
    recorder = tb.RejectionRecorder(drafter)
    trainer = tb.OnlineTrainer(small, recorder)
    torch.manual_seed(0)

    def accepted(drafter):
        out = tb.TreeDecoder(target, drafter).generate(
            ids, max_new_tokens=24, eos_token_id=[], pad_token_id=0
        )
        texts.append(out.sequences)
        return out.stats.accepted_by_depth[0]

    texts, losses = [], []
    before = accepted(drafter)
    for _ in range(3):
        accepted(recorder)
        losses.append(trainer.step(epochs=2))
    after = accepted(drafter)
    assert after > before + 0.1, (before, after, losses)
    assert all(torch.equal(text, texts[0]) for text in texts)  # the target's, as ever


def test_refusals():
    inner = tb.PromptLookup(2)
    for options in ({"contexts": 0}, {"width": 0}, {"candidates": 65}):
        (name,) = options
        with pytest.raises(ValueError, match=f"RejectionRecorder: {name}: expected 1.."):
            tb.RejectionRecorder(inner, **options)
    recorder = tb.RejectionRecorder(inner)
    with pytest.raises(ValueError, match="expected a decoded text, got none"):
        recorder.records()
    with pytest.raises(ValueError, match="batch: expected >= 1, got 0"):
        tb.OnlineTrainer(tiny_model("llama", torch.float32), recorder, batch=0)
    recorder = tb.RejectionRecorder(inner)
    with pytest.raises(ValueError, match="candidates: expected <= 3 words"):
        tb.TreeDecoder(small_model(3), recorder).generate(torch.tensor([[0, 1]]))
