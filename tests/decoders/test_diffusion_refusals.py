"""What the diffusion decoder refuses, its hook in transformers, and models from disk."""

import pytest
import torch
from test_rules_batches import POLICIES
from transformers import LlamaForCausalLM

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.diffusion import DiffusionDecoder, diffusion_generate
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.unmasking import LowConfidence, Threshold
from tokenburst.models.diffusion import load_diffusion

MASK = VOCAB - 1


def llama(**changes):
    """A copy of the tiny model, so that its configuration may be changed."""
    model = tiny_model("llama", torch.float32, False)
    config = type(model.config)(**(model.config.to_dict() | {"mask_token_id": MASK} | changes))
    copy = LlamaForCausalLM(config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def ids_of(length):
    return prompts(1, length, seed=1)[0]


def test_empty_batch():
    decoder = DiffusionDecoder(llama())
    out = decoder.generate(torch.zeros(0, 3).long(), gen_length=4)
    assert out.sequences.shape == (0, 7) and out.stats.forwards == 0
    assert decoder.infill(torch.zeros(0, 3).long()).sequences.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, ids: d.generate(ids, gen_length=0), "gen_length: expected an integer >= 1"),
        (lambda d, ids: d.generate(ids, gen_length=6, block_length=4), "multiple of block_length"),
        (lambda d, ids: d.generate(ids.float()), "input_ids: expected int64"),
        (lambda d, ids: d.generate(ids + VOCAB), "input_ids: expected ids in 0..63"),
        (lambda d, ids: d.generate(ids, torch.zeros_like(ids)), "at least one token in each row"),
        (lambda d, ids: d.generate(torch.full_like(ids, MASK)), "use infill"),
        (lambda d, ids: d.generate(ids, temperature=-1.0), "temperature: expected a number >= 0"),
        (lambda d, ids: d.generate(ids, gen_length=ids[0]), "gen_length: expected an integer or 1"),
        (lambda d, ids: d.generate(ids, gen_length=0 * ids[:, 0]), "expected integers >= 1"),
        (lambda d, ids: d.generate(ids, temperature=-ids[:, 0]), "temperature: expected a number"),
        (lambda d, ids: d.generate(ids, seed=ids), "seed: expected integers of shape"),
        (lambda d, ids: d.generate(ids, seed=2**63), "seed: expected a 64-bit integer"),
        (lambda d, ids: d.generate(ids, sequence_ids=ids), "sequence_ids: expected integers of"),
        (lambda d, ids: d.generate(ids, eos_token_id=MASK), "eos_token_id: .*other than the mask"),
        (lambda d, ids: d.generate(ids, gen_length=9, block_length=3), "multiple of the 3 blocks"),
        (lambda d, ids: DiffusionDecoder(d.model, mask_id=VOCAB), "mask_id: expected an id in"),
        (lambda d, ids: LowConfidence(steps=0), "LowConfidence: steps: expected an integer >= 1"),
        (lambda d, ids: LowConfidence(1, tokens_per_step=2), "steps or tokens_per_step, got both"),
        (lambda d, ids: LowConfidence(ranking="luck"), "ranking: expected one of .*got 'luck'"),
        (lambda d, ids: Threshold(0.0), "threshold: expected > 0 and <= 1, got 0.0"),
        (lambda d, ids: Threshold(float("nan")), "threshold: expected > 0 and <= 1, got nan"),
        (lambda d, ids: Threshold(0.5, "random"), "ranking: expected one of confidence, margin"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(DiffusionDecoder(llama(), LowConfidence(steps=4)), ids_of(3))


def test_no_mask_id_and_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match="mask_id: expected the id of the mask token"):
        DiffusionDecoder(llama(mask_token_id=None))
    with pytest.raises(TypeError, match="top_p"):
        DiffusionDecoder(llama()).generate(ids_of(3), top_p=0.9)


def test_logits_without_numbers_are_an_error_not_a_hang():
    broken = llama()
    broken.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"rows \[0\]: expected logits that are numbers"):
        DiffusionDecoder(broken).generate(ids_of(3), gen_length=4)


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_loops_for_ever(name):
    decoder = DiffusionDecoder(llama(), POLICIES[name])
    options = {"gen_length": 6, "block_length": 3}
    bound = 2 * POLICIES[name].most_steps(3, 2)
    decoder.model.lm_head.weight.data[MASK] = 0
    head = decoder.model.lm_head.forward

    def longing(hidden):  # every argmax is the mask
        logits = head(hidden)
        logits[..., MASK] = 1e4
        return logits

    decoder.model.lm_head.forward = longing
    out = decoder.generate(ids_of(3), **options)
    assert not bool((out.sequences == MASK).any()) and out.stats.forwards <= bound
    decoder.model.lm_head.forward = lambda hidden: head(hidden) * torch.nan
    with pytest.raises(RuntimeError, match="no token could be chosen for some mask of rows"):
        decoder.generate(ids_of(3), **options)
    only = tuple(i for i in range(VOCAB) if i != 7)  # one id is left to propose
    out = DiffusionDecoder(llama(), POLICIES[name]).generate(
        ids_of(3), sampling=Sampling(suppress=only), **options
    )
    assert out.sequences[0, 3:].tolist() == [7] * 6


def test_from_inside_transformers_generate():
    model = llama()
    ids, mask = prompts(2, 5, seed=2, ragged=True)
    options = {"custom_generate": diffusion_generate, "attention_mask": mask, "max_new_tokens": 6}
    policy = LowConfidence(4, "margin")
    got = model.generate(ids, gen_length=8, block_length=4, unmasking=policy, **options)
    want = DiffusionDecoder(model, policy).generate(ids, mask, gen_length=8, block_length=4)
    assert torch.equal(got, want.sequences)
    rich = model.generate(ids, return_dict_in_generate=True, **options)
    assert rich.sequences.shape == (2, 11)
    want = DiffusionDecoder(model).generate(ids, mask, gen_length=6, temperature=0.7, seed=9)
    got = model.generate(ids, temperature=0.7, seed=9, **options)
    assert torch.equal(got, want.sequences)
    for change, message in [
        ({"do_sample": True}, "do_sample: expected False"),
        ({"repetition_penalty": 2.0}, "logits_processor: expected none"),
        ({"max_time": 1.0}, "stopping_criteria: expected none"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(ids, **change, **options)


def test_load_diffusion(tmp_path):
    stored = llama()
    stored.save_pretrained(tmp_path / "model")
    model = load_diffusion(tmp_path / "model")
    assert model.config.is_causal is False and model.config.mask_token_id == MASK
    got, want = (DiffusionDecoder(m).generate(ids_of(4), gen_length=4) for m in (model, stored))
    assert torch.equal(got.sequences, want.sequences)
    for config, message in [
        ("{", "no readable config.json"),
        ('{"model_type": "gpt2"}', "expected model_type .*mistral, qwen2, qwen3, got gpt2"),
        ('{"model_type": "llama", "is_causal": true}', "got a causal model"),
        ('{"model_type": "llama"}', "expected mask_token_id in config.json"),
    ]:
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            load_diffusion(tmp_path)
