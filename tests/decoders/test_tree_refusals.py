"""What TreeDecoder says to bad input, and that models are left as they were."""

import copy

import pytest
import torch

import tokenburst as tb
from tiny import prompts, tiny_model


def decoder():
    return tb.TreeDecoder(tiny_model("llama", torch.float32), tb.TokenRecycling("4x2x1"))


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), {}, r"input_ids: expected int64 \[batch, length\]"),
        (torch.zeros(1, 3), {}, "input_ids: expected int64"),
        (torch.zeros(1, 0, dtype=torch.int64), {}, "expected at least one token"),
        (torch.full((1, 3), 64), {}, r"input_ids: expected ids in 0..63, got 64..64"),
        (torch.full((1, 3), -1), {}, "input_ids: expected ids in 0..63"),
        (
            torch.ones(1, 3, dtype=torch.int64),
            {"attention_mask": torch.ones(1, 4)},
            "attention_mask",
        ),
        (
            torch.ones(2, 3, dtype=torch.int64),
            {"attention_mask": torch.zeros(2, 3)},
            "at least one",
        ),
        (
            torch.ones(1, 3, dtype=torch.int64),
            {"max_new_tokens": -1},
            "max_new_tokens: expected integers >= 0",
        ),
        (torch.ones(1, 3, dtype=torch.int64), {"cache_length": 10}, "cache_length: expected >= "),
        (
            torch.ones(1, 3, dtype=torch.int64),
            {"eos_token_id": 64},
            "eos_token_id: expected ids in",
        ),
    ],
)
def test_refused(ids, options, message):
    with pytest.raises(ValueError, match=message):
        decoder().generate(ids, **options)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="temprature"):
        decoder().generate(torch.ones(1, 3, dtype=torch.int64), temprature=1.0)


def test_empty_batch_and_no_new_tokens():
    assert decoder().generate(torch.zeros(0, 5, dtype=torch.int64)).sequences.shape == (0, 5)
    ids, _ = prompts(2, 5, 0)
    assert torch.equal(decoder().generate(ids, max_new_tokens=0).sequences, ids)


def test_logits_without_numbers():
    model = copy.deepcopy(tiny_model("llama", torch.float32))
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="expected logits that are numbers"):
        tb.TreeDecoder(model, tb.TokenRecycling("4x2x1")).generate(
            prompts(2, 5, 0)[0], max_new_tokens=6
        )


def test_unsupported_model():
    with pytest.raises(ValueError, match="one of llama, mistral, qwen2, qwen3, got Linear"):
        tb.TreeDecoder(torch.nn.Linear(2, 2))


def test_other_vocabulary():
    drafter = tb.TokenRecycling("4x2x1")
    drafter.adjacency = torch.zeros(10, 8, dtype=torch.int32)
    with pytest.raises(ValueError, match="adjacency: expected 64 rows"):
        tb.TreeDecoder(tiny_model("llama", torch.float32), drafter).generate(prompts(1, 5, 0)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.TreeTemplate((-1, 1), (0, 0)), "node 1: expected 0 <= parent < 1"),
        (lambda: tb.TreeTemplate((-1, 0, 0), (0, 1, 1)), "siblings of different ranks"),
        (lambda: tb.TokenRecycling("9.9.9"), "tree: expected 'auto', a TreeTemplate or one of"),
        (lambda: tb.TokenRecycling("2.2.2", candidates=4), "candidates: expected >= 8"),
        (lambda: tb.TokenRecycling(candidates=0), "candidates: expected >= 1"),
    ],
)
def test_bad_trees(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_model_is_left_as_it_was():
    model = tiny_model("llama", torch.float32)
    before = model.config._attn_implementation
    ids, _ = prompts(1, 6, 1)
    want = model(ids).logits
    tb.TreeDecoder(model).generate(ids, max_new_tokens=4)
    assert model.config._attn_implementation == before
    assert torch.equal(model(ids).logits, want)
