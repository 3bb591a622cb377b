"""Published checkpoint layouts: logits against the architectures in plain torch, and refusals."""

import json

import pytest
import torch
from published import (
    DREAM,
    LLADA,
    SDAR,
    VOCAB,
    llada_logits,
    llada_weights,
    qwen_logits,
    qwen_weights,
    write,
)
from safetensors.torch import save_file

from tokenburst import DiffusionDecoder, LowConfidence, load_diffusion
from tokenburst.models.layouts import ntk_scale

IDS = torch.randint(0, VOCAB, (1, 13), generator=torch.Generator().manual_seed(5))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits[0]


def without(config, name):
    return {n: v for n, v in config.items() if n != name}


@pytest.mark.parametrize("parts", [1, 3])
def test_llada(tmp_path, parts):
    weights = llada_weights()
    model = load_diffusion(write(tmp_path / "m", LLADA, weights, parts))
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert torch.allclose(logits(model), llada_logits(weights, IDS[0]), atol=2e-5)
    assert (model.config.mask_token_id, model.config.vocab_size) == (86, VOCAB)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (81, 81)
    scaled = load_diffusion(tmp_path / "m", rope_scale=4, mask_id=3, eos_token_id=[80, 81])
    assert torch.allclose(logits(scaled), llada_logits(weights, IDS[0], 2e6), atol=2e-5)
    assert scaled.config.mask_token_id == 3
    assert scaled.generation_config.eos_token_id == [80, 81]


def test_llada_with_tied_embeddings_and_a_16_bit_file(tmp_path):
    weights = llada_weights(torch.bfloat16)
    del weights["model.transformer.ff_out.weight"]
    write(tmp_path / "m", LLADA | {"weight_tying": True, "embedding_size": None,
                                   "vocab_size": VOCAB}, weights)  # fmt: skip
    assert load_diffusion(tmp_path / "m").dtype == torch.bfloat16
    model = load_diffusion(tmp_path / "m", dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    weights = {n: t.float() for n, t in weights.items()}
    assert torch.allclose(logits(model), llada_logits(weights, IDS[0]), atol=2e-5)


def test_dream_is_shifted(tmp_path):
    weights = qwen_weights(8, bias=True, norm=False, tied=False)
    model = load_diffusion(write(tmp_path / "m", DREAM, weights, parts=2))
    assert type(model).__name__ == "Qwen2ForCausalLM" and model.config.shifted
    assert torch.allclose(logits(model), qwen_logits(weights, IDS[0]), atol=2e-5)
    out = DiffusionDecoder(model, LowConfidence()).generate(IDS[:, :5] % 80, gen_length=1)
    x = torch.cat([IDS[0, :5] % 80, torch.tensor([86])])
    want = qwen_logits(weights, x)[4]
    want[86] = -torch.inf
    assert int(out.sequences[0, 5]) == int(want.argmax())
    scaled = load_diffusion(tmp_path / "m", rope_scale=5)
    assert torch.allclose(logits(scaled), qwen_logits(weights, IDS[0], theta=5e6), atol=2e-5)


def test_sdar_is_block_causal(tmp_path):
    weights = qwen_weights(16, bias=False, norm=True, tied=True)
    model = load_diffusion(write(tmp_path / "m", SDAR, weights))
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.block_length == 4 and model.config.mask_token_id == 89
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.allclose(logits(model), qwen_logits(weights, IDS[0]), atol=2e-5)
    assert load_diffusion(tmp_path / "m", block_length=8).config.block_length == 8
    ids = IDS[:, :6] % 80  # the second block begins with two tokens of the prompt
    out = DiffusionDecoder(model, LowConfidence()).generate(ids, gen_length=2)
    x = torch.cat([ids[0], torch.full((2,), 89)])
    block = torch.arange(8) // 4
    for _ in range(2):
        p = qwen_logits(weights, x, block <= block[:, None])
        p[:, 89] = -torch.inf
        best, token = p.softmax(-1).max(-1)
        at = int(best.where(x == 89, -1).argmax())
        x[at] = token[at]
    assert out.sequences[0].tolist() == x.tolist()


@pytest.mark.parametrize("named", ["added_tokens_decoder", "added_tokens.json", "tokenizer.json"])
def test_the_tokenizer_names_the_mask_where_config_json_does_not(tmp_path, named):
    config = without(without(SDAR, "block_size"), "mask_token_id")
    folder = write(tmp_path / "m", config, qwen_weights(16, bias=False, norm=True, tied=True))
    tokenizer = {"mask_token": {"content": "<|MASK|>"} if named == "tokenizer.json" else "<|MASK|>"}
    with pytest.raises(ValueError, match="a mask_token of the tokenizer or the argument"):
        load_diffusion(folder, block_length=4)
    if named == "added_tokens_decoder":
        tokenizer[named] = {"88": {"content": "<|im_end|>"}, "89": {"content": "<|MASK|>"}}
    elif named == "added_tokens.json":
        (folder / named).write_text(json.dumps({"<|MASK|>": 89}))
    else:
        (folder / named).write_text(
            json.dumps({"added_tokens": [{"id": 89, "content": "<|MASK|>"}]})
        )
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [84, 85]}))
    model = load_diffusion(folder, block_length=4)
    assert (model.config.mask_token_id, model.config.block_length) == (89, 4)
    assert model.generation_config.eos_token_id == [84, 85]
    assert load_diffusion(folder, block_length=4, mask_id=7).config.mask_token_id == 7
    (folder / "tokenizer_config.json").write_text('{"mask_token": "<|other|>"}')
    with pytest.raises(ValueError, match="mask_id, got none"):
        load_diffusion(folder, block_length=4)


def test_a_stored_stock_model_keeps_what_the_decoder_has_to_know(tmp_path):
    weights = qwen_weights(8, bias=True, norm=False, tied=False)
    model = load_diffusion(write(tmp_path / "m", DREAM, weights))
    model.save_pretrained(tmp_path / "again")
    again = load_diffusion(tmp_path / "again")
    assert again.config.shifted and again.config.mask_token_id == 86
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLADA | {"alibi": True}, "config.json: alibi: expected False, got True"),
        (LLADA | {"block_type": "sequential"}, "block_type: expected 'llama'"),
        (without(LLADA, "d_model"), "config.json: missing 'd_model'"),
        (without(LLADA, "mask_token_id"), "expected mask_token_id in config.json, a mask"),
        (LLADA | {"mask_token_id": VOCAB}, f"expected a mask id below {VOCAB}, got {VOCAB}"),
        (LLADA | {"model_type": "gpt2"}, "expected model_type llada, Dream, sdar, .*got gpt2"),
        (LLADA | {"n_layers": 3}, "missing tensors: model.layers.2.input_layernorm.weight;.*more"),
        (LLADA | {"n_layers": 1}, "unknown tensors: model.layers.1.input_layernorm.weight"),
        (LLADA | {"d_model": 64}, r"wrong shapes: .*expected \(96, 64\), got \(96, 32\)"),
        (without(SDAR, "block_size"), "expected block_size in config.json or the argument"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, config, message):
    write(tmp_path / "m", config, llada_weights())
    with pytest.raises(ValueError, match=message):
        load_diffusion(tmp_path / "m")


def test_broken_files_are_refused(tmp_path):
    folder = write(tmp_path / "m", LLADA, llada_weights(), parts=2)
    second = folder / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    for content in (whole[:-10], whole[:4], b"", b"\xff" * 64):
        second.write_bytes(content)
        with pytest.raises(ValueError, match=r"00002\.safetensors: broken or truncated"):
            load_diffusion(folder)
    second.unlink()
    with pytest.raises(ValueError, match=r"missing model-00002-of-00002\.safetensors, named in"):
        load_diffusion(folder)
    index = folder / "model.safetensors.index.json"
    for content, message in [
        ("{}", "expected a weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "expected files beside it"),
        ("[", "no readable model.safetensors.index.json"),
    ]:
        index.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_diffusion(folder)
    index.unlink()
    torch.save(llada_weights(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights are not read"):
        load_diffusion(folder)
    with pytest.raises(ValueError, match=r"rope_scale: expected a number >= 1, got 0\.5"):
        load_diffusion(folder, rope_scale=0.5)
    with pytest.raises(ValueError, match=r"no readable config\.json"):
        load_diffusion(tmp_path)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    folder = write(tmp_path / "m", LLADA, llada_weights(), parts=2)
    extra = {"model.embed_tokens.weight": torch.zeros(VOCAB, 32)}
    save_file(extra, folder / "model-00003.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.embed_tokens.weight"] = "model-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="a second tensor"):
        load_diffusion(folder)


def test_ntk_scale():
    llada = {"trained": 4096, "theta": 5e5, "head_dim": 128}
    assert [ntk_scale(n << 10, **llada) for n in (8, 16, 24, 32)] == [4, 14, 31, 55]
    assert ntk_scale(4096, trained=2048, theta=1e6, head_dim=128) == 5
    assert ntk_scale(16, **llada) == 1
    with pytest.raises(ValueError, match="expected length, trained, head_dim >= 1"):
        ntk_scale(0, **llada)
