"""DiffusionDecoder against a ten-line oracle on tiny random models, alone and in batches."""

import pytest
import torch

from tiny import FAMILIES, VOCAB, prompts, tiny_model
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.unmasking import LowConfidence, Threshold
from tokenburst.models.attention import TokenContext, installed

MASK = VOCAB - 1  # also what `prompts` pads with: padding is no mask


def decoder(policy, family="llama", dtype=torch.float32):
    return DiffusionDecoder(tiny_model(family, dtype, False), policy, mask_id=MASK)


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
    pytest.param(LowConfidence(steps=40), shares(20), id="spare-steps"),
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
def test_policy_equals_oracle(policy, rule):
    ids, _ = prompts(1, 5, seed=1)
    d = decoder(policy)
    out = d.generate(ids, gen_length=16, block_length=8)
    x = torch.cat([ids[0], torch.full((16,), MASK)])
    want, forwards = oracle(d.model, x, [(5, 13), (13, 21)], rule, policy.ranking)
    assert out.sequences.tolist() == [want.tolist()]
    assert out.stats.forwards == forwards == sum(out.stats.steps[0])
    assert out.stats.new_tokens == [16]
    assert out.stats.tokens_per_forward == 16 / forwards


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_sees_both_ways_as_its_own_class_does(family):
    model = tiny_model(family, torch.float32, False)
    x = prompts(1, 12, seed=2)[0]
    with torch.no_grad():
        want = model(x).logits[0]
    want[:, MASK] = -torch.inf
    assert torch.allclose(forward(model, x[0])[:12], want, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "policy", [Threshold(0.3), LowConfidence(6), LowConfidence(6, "random")], ids=str
)
def test_a_batch_equals_its_rows_alone(policy, temperature, dtype):
    d = decoder(policy, "qwen2", dtype)
    ids, mask = prompts(4, 7, seed=3, ragged=True)
    options = {"gen_length": 6, "block_length": 2, "temperature": temperature, "seed": 5}
    names = torch.tensor([10, 11, 12, 13])
    together = d.generate(ids, mask, sequence_ids=names, **options)
    assert together.sequences[:, :7].tolist() == ids.tolist()
    assert not bool((together.sequences[:, 7:] == MASK).any())
    for b in range(4):
        row, name = ids[b : b + 1, mask[b] == 1], names[b : b + 1]
        alone = d.generate(row, sequence_ids=name, **options)
        assert alone.sequences[0, -6:].tolist() == together.sequences[b, -6:].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_of_a_batch_are_those_of_its_rows_bit_for_bit(dtype, threads):
    d = decoder(LowConfidence(1), dtype=dtype)
    ids, mask = prompts(4, 9, seed=4, ragged=True)
    seen, before = [], torch.get_num_threads()
    hook = d.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    torch.set_num_threads(threads)
    d.generate(ids, mask, gen_length=6)
    for b in range(4):
        d.generate(ids[b : b + 1, mask[b] == 1], gen_length=6)
    torch.set_num_threads(before)
    hook.remove()
    together = seen[0].view(4, -1, seen[0].shape[1])[:, :6]
    assert torch.equal(together, torch.stack([rows[:6] for rows in seen[1:]]))


def test_the_same_seed_gives_the_same_tokens():
    d = decoder(LowConfidence(4, "random"))
    ids, mask = prompts(2, 6, seed=5, ragged=True)
    options = {"gen_length": 12, "temperature": 1}
    first, again, other = (d.generate(ids, mask, seed=s, **options).sequences for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    names = torch.tensor([1, 0])
    swapped = d.generate(ids.flip(0), mask.flip(0), seed=3, sequence_ids=names, **options)
    assert torch.equal(swapped.sequences.flip(0), first)


def test_blocks_are_filled_in_order_and_the_callback_sees_it():
    seen = []
    ids, mask = prompts(2, 5, seed=7, ragged=True)
    out = decoder(LowConfidence()).generate(
        ids, mask, gen_length=9, block_length=3, callback=lambda n, x: seen.append((n, x))
    )
    assert [n for n, _ in seen] == list(range(1, 10))
    for n, x in seen:
        assert torch.equal(x[:, :5], ids)
        decided = n // 3 * 3  # blocks before the current one hold no mask, blocks after it no token
        assert not bool((x[:, 5 : 5 + decided] == MASK).any())
        assert bool((x[:, 8 + decided :] == MASK).all())
        assert (x[:, 5:] == MASK).sum(1).tolist() == [9 - n] * 2
    assert torch.equal(seen[-1][1], out.sequences)
    assert out.stats.steps == [[3, 3, 3]] * 2


def test_infill_fills_masks_and_nothing_else():
    ids, mask = prompts(3, 9, seed=8)
    ids[1, :5], mask[1, :5] = MASK, 0  # padding, not masks to fill
    ids[:2, -2:] = ids[0, 1] = ids[0, 4] = MASK
    d = decoder(LowConfidence(tokens_per_step=1))
    out = d.infill(ids, mask, progress=True)
    masks = (ids == MASK) & (mask == 1)
    assert torch.equal(out.sequences[~masks], ids[~masks])
    assert not bool((out.sequences[masks] == MASK).any())
    assert (out.stats.new_tokens, out.stats.steps) == ([4, 2, 0], [[4], [2], [0]])
    for b in range(3):
        x = ids[b, mask[b] == 1]
        want, _ = oracle(d.model, x, [(0, len(x))], lambda s, step, n: 1)
        assert out.sequences[b, mask[b] == 1].tolist() == want.tolist()
    assert d.infill(torch.full((1, 2), MASK)).stats.forwards == 2
    assert d.infill(ids[2:]).stats.forwards == 0


def test_after_the_first_end_there_is_padding_and_no_work():
    ids, mask = prompts(2, 6, seed=9, ragged=True)
    d = decoder(LowConfidence())
    new = d.generate(ids, mask, gen_length=12, block_length=2).sequences[:, 6:].tolist()
    ends = [new[0][1], new[1][3]]
    got = d.generate(ids, mask, gen_length=12, block_length=2, eos_token_id=ends, pad_token_id=7)
    for b in range(2):
        first = next(i for i, token in enumerate(new[b]) if token in ends)
        assert got.sequences[b, 6:].tolist() == new[b][: first + 1] + [7] * (11 - first)
    assert got.stats.forwards == max(map(sum, got.stats.steps)) <= 4
    alone = d.generate(ids, mask, gen_length=4, eos_token_id=ends[0])
    assert alone.sequences.shape == (2, 10) and int(alone.sequences[0, -1]) == ends[0]


def test_mask_id_zero_is_no_padding():
    # Whole groups of rows are filled up with id 0, which may be the mask: those are nobody's masks.
    model = tiny_model("llama", torch.float32, False)
    ids = torch.tensor([[5, 0, 7, 0, 9]])
    out = DiffusionDecoder(model, LowConfidence(), mask_id=0).infill(ids)
    assert out.stats.new_tokens == [2] and out.stats.forwards == 2
    assert (out.sequences != 0).all() and torch.equal(out.sequences[ids != 0], ids[ids != 0])
    longer = DiffusionDecoder(model, LowConfidence(), mask_id=0).generate(
        torch.tensor([[5, 7]]), gen_length=3
    )
    assert longer.stats.new_tokens == [3] and (longer.sequences != 0).all()


def test_each_row_may_have_its_own_lengths_seed_and_temperature():
    d = decoder(LowConfidence(8), "qwen3")
    ids, mask = prompts(4, 6, seed=10, ragged=True)
    lengths, blocks = torch.tensor([16, 8, 16, 12]), torch.tensor([4, 8, 16, 3])
    seeds, heats = torch.tensor([1, 2, 3, 4]), torch.tensor([0.0, 1.0, 0.7, 0.0])
    names = torch.arange(4)
    options = {"sequence_ids": names, "pad_token_id": 5}
    got = d.generate(
        ids, mask, gen_length=lengths, block_length=blocks, seed=seeds, temperature=heats, **options
    )
    assert got.sequences.shape == (4, 22)
    for b in range(4):
        n = int(lengths[b])
        alone = d.generate(
            ids[b : b + 1, mask[b] == 1],
            gen_length=n,
            block_length=int(blocks[b]),
            seed=int(seeds[b]),
            temperature=float(heats[b]),
            sequence_ids=names[b : b + 1],
        )
        assert got.sequences[b, 6:].tolist() == alone.sequences[0, -n:].tolist() + [5] * (16 - n)
        assert sum(got.stats.steps[b]) == sum(alone.stats.steps[0]) == 8
        assert got.stats.new_tokens[b] == n
