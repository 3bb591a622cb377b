"""DiffusionDecoder against a ten-line oracle on tiny random models, alone and in batches."""

import pytest
import torch
from tokenburst.decoders.diffusion import DiffusionDecoder, diffusion_generate
from tokenburst.decoders.unmasking import LowConfidence, Threshold
from tokenburst.models.attention import TokenContext, installed
from tokenburst.models.diffusion import load_diffusion
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCAB, MASK = 53, 52
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "is_causal": False,
    "mask_token_id": MASK,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "pad_token_id": None,
    "bos_token_id": None,
}


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def prompts(*lengths):
    g = torch.Generator().manual_seed(len(lengths) + sum(lengths))
    rows = [torch.randint(0, MASK, (n,), generator=g) for n in lengths]
    width = max(lengths)
    ids = torch.stack([torch.cat([torch.zeros(width - len(r)).long(), r]) for r in rows])
    mask = torch.stack([torch.arange(width) >= width - len(r) for r in rows]).long()
    return ids, mask


def forward(model, x):
    """Logits of one sequence [L], without the mask token; in whole groups of four rows."""
    n = torch.tensor([len(x)], dtype=torch.int32)
    x = torch.nn.functional.pad(x, (0, -len(x) % 4))
    context = TokenContext(kv_len=torch.zeros_like(n), n_nodes=n, causal=False)
    with torch.no_grad(), installed(model):
        logits = model(x[None], use_cache=False, token_context=context).logits[0].float()
    logits[:, MASK] = -torch.inf
    return logits


def oracle(model, x, spans, rule, ranking="confidence"):
    """Fill the masks of `x` span by span; rule(scores, step, masks at start) -> count."""
    x, forwards = x.clone(), 0
    for begin, end in spans:
        start = int((x[begin:end] == MASK).sum())
        step = 0
        while bool((x[begin:end] == MASK).any()):
            p = forward(model, x).softmax(-1)
            forwards += 1
            best, token = p.max(-1)
            top = p.topk(2).values
            score = {"confidence": best, "margin": top[:, 0] - top[:, 1]}.get(ranking)
            score = torch.special.entr(p).sum(-1).neg() if score is None else score
            masks = [i for i in range(begin, end) if x[i] == MASK]
            masks.sort(key=lambda i: (-float(score[i]), i))
            for i in masks[: rule([float(score[j]) for j in masks], step, start)]:
                x[i] = token[i]
            step += 1
    return x, forwards


def shares(steps):
    return lambda scores, step, n: n // steps + (step < n % steps)


def above(threshold):
    return lambda scores, step, n: max(1, sum(s >= threshold for s in scores))


POLICIES = [
    pytest.param(LowConfidence(steps=6), shares(3), id="steps"),
    pytest.param(LowConfidence(steps=40), shares(20), id="more-steps-than-masks"),
    pytest.param(LowConfidence(), shares(10**6), id="one-by-one"),
    pytest.param(LowConfidence(tokens_per_step=3), lambda s, step, n: 3, id="tokens-per-step"),
    pytest.param(LowConfidence(6, "margin"), shares(3), id="margin"),
    pytest.param(LowConfidence(6, "entropy"), shares(3), id="entropy"),
    pytest.param(Threshold(0.3), above(0.3), id="threshold"),
    pytest.param(Threshold(1.0), above(1.0), id="threshold-1"),
    pytest.param(Threshold(0.2, "margin"), above(0.2), id="threshold-margin"),
    pytest.param(Threshold(2.0, "entropy"), above(-2.0), id="threshold-entropy"),
]


@pytest.mark.parametrize(("policy", "rule"), POLICIES)
def test_policy_equals_oracle(llama, policy, rule):
    ids, _ = prompts(5)
    out = DiffusionDecoder(llama, policy).generate(ids, gen_length=16, block_length=8)
    x = torch.cat([ids[0], torch.full((16,), MASK)])
    want, forwards = oracle(llama, x, [(5, 13), (13, 21)], rule, policy.ranking)
    assert out.sequences.tolist() == [want.tolist()]
    assert out.stats.forwards == forwards == sum(out.stats.steps[0])
    assert out.stats.tokens == [16]
    assert out.stats.tokens_per_forward == 16 / forwards


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "policy", [Threshold(0.3), LowConfidence(6), LowConfidence(6, "random")], ids=str
)
def test_a_batch_equals_its_rows_alone(policy, temperature, dtype):
    torch.manual_seed(2)
    config = Qwen2Config(**(SHAPE | {"num_attention_heads": 2}))
    decoder = DiffusionDecoder(Qwen2ForCausalLM(config).to(dtype), policy)
    ids, mask = prompts(7, 1, 4, 2)
    options = {"gen_length": 6, "block_length": 2, "temperature": temperature, "seed": 5}
    names = torch.tensor([10, 11, 12, 13])
    together = decoder.generate(ids, mask, sequence_ids=names, **options)
    assert together.sequences[:, :7].tolist() == ids.tolist()
    assert not bool((together.sequences == MASK).any())
    for b in range(4):
        row, name = ids[b : b + 1, mask[b] == 1], names[b : b + 1]
        alone = decoder.generate(row, sequence_ids=name, **options)
        assert alone.sequences[0, -6:].tolist() == together.sequences[b, -6:].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_of_a_batch_are_those_of_its_rows_bit_for_bit(llama, dtype):
    model = LlamaForCausalLM(llama.config).to(dtype)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    decoder = DiffusionDecoder(model, LowConfidence(1))
    ids, mask = prompts(4, 9, 1, 6)
    decoder.generate(ids, mask, gen_length=6)
    for b in range(4):
        decoder.generate(ids[b : b + 1, mask[b] == 1], gen_length=6)
    together = seen[0].view(4, -1, 64)[:, :6]
    assert torch.equal(together, torch.stack([rows[:6] for rows in seen[1:]]))


def test_the_same_seed_gives_the_same_tokens(llama):
    decoder = DiffusionDecoder(llama, LowConfidence(4, "random"))
    ids, mask = prompts(3, 6)
    first, again, other = (
        decoder.generate(ids, mask, gen_length=12, temperature=1.5, seed=s).sequences
        for s in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    swapped = decoder.generate(
        ids.flip(0), mask.flip(0), gen_length=12, temperature=1.5, seed=3,
        sequence_ids=torch.tensor([1, 0]),
    )  # fmt: skip
    assert torch.equal(swapped.sequences.flip(0), first)


def test_blocks_are_filled_in_order_and_the_callback_sees_it(llama):
    seen = []
    ids, mask = prompts(2, 5)
    out = DiffusionDecoder(llama, LowConfidence()).generate(
        ids, mask, gen_length=9, block_length=3, callback=lambda n, x: seen.append((n, x))
    )
    assert [n for n, _ in seen] == list(range(1, 10))
    for n, x in seen:
        assert x[:, :5].tolist() == ids.tolist()
        full = 5 + (n // 3) * 3  # blocks before this one hold no mask, blocks after it nothing else
        assert not bool((x[:, :full] == MASK).any())
        assert bool((x[:, full + 3 :] == MASK).all())
        assert (x == MASK).sum(1).tolist() == [9 - n] * 2
    assert torch.equal(seen[-1][1], out.sequences)
    assert out.stats.steps == [[3, 3, 3]] * 2


def test_infill_fills_masks_and_nothing_else(llama):
    ids, mask = prompts(9, 3, 6)
    ids[:, -2:] = MASK
    ids[0, 1] = ids[0, 4] = MASK
    ids[1, 0] = MASK  # padding: not ours
    ids[2] = torch.arange(9)
    decoder = DiffusionDecoder(llama, LowConfidence(tokens_per_step=1))
    out = decoder.infill(ids, mask, progress=True)
    open_ = (ids == MASK) & (mask == 1)
    assert torch.equal(out.sequences[~open_], ids[~open_])
    assert not bool((out.sequences[open_] == MASK).any())
    assert (out.stats.tokens, out.stats.steps) == ([4, 2, 0], [[4], [2], [0]])
    for b in range(3):
        x = ids[b, mask[b] == 1]
        want, _ = oracle(llama, x, [(0, len(x))], lambda s, step, n: 1)
        assert out.sequences[b, mask[b] == 1].tolist() == want.tolist()
    alone = decoder.infill(torch.full((1, 2), MASK))
    assert alone.sequences.shape == (1, 2) and alone.stats.forwards == 2
    assert decoder.infill(ids[2:]).stats.forwards == 0


def test_after_the_first_end_there_is_padding_and_no_work(llama):
    ids, mask = prompts(4, 6)
    decoder = DiffusionDecoder(llama, LowConfidence())
    free = decoder.generate(ids, mask, gen_length=12, block_length=2)
    new = free.sequences[:, 6:].tolist()
    ends = [new[0][1], new[1][3]]
    got = decoder.generate(ids, mask, gen_length=12, block_length=2, eos_token_id=ends)
    for b in range(2):
        first = next(i for i, token in enumerate(new[b]) if token in ends)
        want = [*new[b][: first + 1]] + [ends[0]] * (11 - first)
        assert got.sequences[b, 6:].tolist() == want
    assert got.stats.forwards <= 4 and got.stats.forwards == max(map(sum, got.stats.steps))
    padded = decoder.generate(ids, mask, gen_length=4, eos_token_id=new[0][0], pad_token_id=7)
    assert padded.sequences.shape == (2, 10)


def test_empty_batch(llama):
    out = DiffusionDecoder(llama).generate(torch.zeros(0, 3).long(), gen_length=4)
    assert out.sequences.shape == (0, 7) and out.stats.forwards == 0
    assert DiffusionDecoder(llama).infill(torch.zeros(0, 3).long()).sequences.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, ids: d.generate(ids, gen_length=0), "gen_length: expected an integer >= 1"),
        (lambda d, ids: d.generate(ids, gen_length=6, block_length=4), "multiple of block_length"),
        (lambda d, ids: d.generate(ids.float()), "input_ids: expected int64"),
        (lambda d, ids: d.generate(ids + VOCAB), "input_ids: expected ids in 0..52"),
        (lambda d, ids: d.generate(ids, torch.zeros_like(ids)), "at least one token in each row"),
        (lambda d, ids: d.generate(torch.full_like(ids, MASK)), "use infill"),
        (lambda d, ids: d.generate(ids, temperature=-1.0), "temperature: expected a number >= 0"),
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
def test_refusals(llama, call, message):
    with pytest.raises(ValueError, match=message):
        call(DiffusionDecoder(llama, LowConfidence(steps=4)), prompts(3)[0])


def test_no_mask_id_and_unknown_arguments_are_refused(llama):
    bare = LlamaForCausalLM(LlamaConfig(**(SHAPE | {"mask_token_id": None})))
    with pytest.raises(ValueError, match="mask_id: expected the id of the mask token"):
        DiffusionDecoder(bare)
    with pytest.raises(TypeError, match="top_p"):
        DiffusionDecoder(llama).generate(prompts(3)[0], top_p=0.9)


def test_logits_without_numbers_are_an_error_not_a_hang():
    broken = LlamaForCausalLM(LlamaConfig(**SHAPE))
    broken.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"rows \[0\]: expected logits that are numbers"):
        DiffusionDecoder(broken).generate(prompts(3)[0], gen_length=4)


def test_from_inside_transformers_generate(llama):
    ids, mask = prompts(3, 5)
    options = {"custom_generate": diffusion_generate, "attention_mask": mask}
    policy = LowConfidence(4, "margin")
    got = llama.generate(ids, gen_length=8, block_length=4, unmasking=policy, **options)
    want = DiffusionDecoder(llama, policy).generate(ids, mask, gen_length=8, block_length=4)
    assert torch.equal(got, want.sequences)
    rich = llama.generate(ids, max_new_tokens=6, return_dict_in_generate=True, **options)
    assert rich.sequences.shape == (2, 11)
    warm = {"temperature": 0.7, "max_new_tokens": 6, "seed": 9}
    want = DiffusionDecoder(llama).generate(ids, mask, gen_length=6, temperature=0.7, seed=9)
    assert torch.equal(llama.generate(ids, **warm, **options), want.sequences)
    for change, message in [
        ({"do_sample": True}, "do_sample: expected False"),
        ({"repetition_penalty": 2.0}, "logits_processor: expected none"),
        ({"max_time": 1.0}, "stopping_criteria: expected none"),
    ]:
        with pytest.raises(ValueError, match=message):
            llama.generate(ids, **change, **options)


def test_load_diffusion(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    model = load_diffusion(tmp_path / "model")
    assert model.config.is_causal is False and model.config.mask_token_id == MASK
    ids = prompts(4)[0]
    got, want = (DiffusionDecoder(m).generate(ids, gen_length=4).sequences for m in (model, llama))
    assert torch.equal(got, want)
    for config, message in [
        ("{", "no readable config.json"),
        ('{"model_type": "gpt2"}', "expected model_type llama, qwen2, qwen3, got gpt2"),
        ('{"model_type": "llama", "is_causal": true}', "got a causal model"),
        ('{"model_type": "llama"}', "expected mask_token_id in config.json"),
    ]:
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            load_diffusion(tmp_path)
