"""EndOfText against the published loop, which cuts the sequence itself, and its invariants."""

import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import DelayedCache, DualCache, PrefixCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.sparsed import SparseD

MASK, EOS = VOCAB - 1, (3, 17, 40)
GEN, BLOCK = 24, 8


def take_confident(confidence):
    """A filter that needs no training."""
    return (confidence * 3).clamp(max=1.0)


def published(model, prompt, learned, threshold):
    """Greedy decoding of one row; what stands behind the end is cut off."""
    x, sizes = torch.cat([prompt, torch.full((GEN,), MASK)]), []
    for begin in range(len(prompt), len(prompt) + GEN, BLOCK):
        while (x[begin : begin + BLOCK] == MASK).any():
            sizes.append(len(x))
            with torch.no_grad():
                logits = model(x[None]).logits[0]
            logits[:, MASK] = -torch.inf
            c, token = logits.softmax(-1).max(-1)
            masked, at = x == MASK, torch.arange(len(x))
            here = masked & (at >= begin) & (at < begin + BLOCK)
            accepted = here & (take_confident(c) > 0.96) if learned else torch.zeros_like(here)
            ends = masked & torch.isin(token, torch.tensor(EOS))
            commit = accepted.clone()
            commit[c.where(here, -1.0).argmax()] = True
            x = torch.where(commit, token, x)
            sure = c.where(ends & (c >= threshold), -1.0)
            if (ends & accepted).any():
                x = x[: int((ends & accepted).int().argmax()) + 1]
            elif sure.max() >= 0:
                x = x[: int(sure.argmax()) + 1]
    return x, sizes


@pytest.mark.parametrize(("learned", "threshold"), [(True, 0.0), (True, 0.15), (False, 0.15)])
def test_tokens_and_lengths_are_those_of_the_published_loop(learned, threshold):
    model, widths, cuts = tiny_model("llama", torch.float32, False), [], 0
    policy = u.Learned(take_confident) if learned else u.LowConfidence()
    decoder = DiffusionDecoder(model, u.EndOfText(policy, EOS, threshold), mask_id=MASK)
    watch = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for seed in range(4):
        ids, _ = prompts(1, 7, seed=seed)
        widths.clear()
        got = decoder.generate(ids, gen_length=GEN, block_length=BLOCK)
        ran = widths.copy()
        want, sizes = published(model, ids[0], learned, threshold)
        assert got.sequences[0, : len(want)].tolist() == want.tolist()
        assert (got.sequences[0, len(want) :] == EOS[0]).all()
        assert ran == [-(-n // 4) * 4 for n in sizes]
        assert got.stats.new_tokens == [GEN]
        cuts += sizes[-1] < sizes[0] or sizes[-1] > len(want)
    watch.remove()
    assert cuts > 0


CASES = [
    (u.Learned(take_confident), None, {}),
    (u.Threshold(0.2), DualCache(), {"guidance": 0.5}),
    (u.Credit(u.Threshold(0.2)), PrefixCache(), {}),
    (u.Editing(u.llada2(0.2), threshold=0.3, post_steps=3), DelayedCache(), {}),
    (u.ReMDM(12, eta=0.2), None, {"temperature": 0.7, "seed": 2}),
    (u.Stable(0.2, 0.5, 1), None, {"sampling": Sampling(numerics="fp64", bias={3: 0.5})}),
]


@pytest.mark.parametrize(("policy", "cache", "options"), CASES, ids=str)
def test_a_batch_equals_its_rows_alone(policy, cache, options):
    model = tiny_model("qwen2", torch.float32, False)
    ending = u.EndOfText(policy, EOS, 0.12)
    decoder = DiffusionDecoder(model, ending, cache=cache, mask_id=MASK)
    ids, mask = prompts(4, 7, seed=3, ragged=True)
    names, seen = torch.arange(4) + 5, []
    together = decoder.generate(
        ids,
        mask,
        gen_length=GEN,
        block_length=BLOCK,
        sequence_ids=names,
        eos_token_id=list(EOS),
        pad_token_id=0,
        callback=lambda n, x: seen.append(x),
        **options,
    )
    assert all(torch.equal(x[:, :7], ids) for x in seen)
    assert not bool((together.sequences[:, 7:] == MASK).any())
    for b in range(4):
        alone = decoder.generate(
            ids[b : b + 1, mask[b] == 1],
            gen_length=GEN,
            block_length=BLOCK,
            sequence_ids=names[b : b + 1],
            eos_token_id=list(EOS),
            pad_token_id=0,
            **options,
        )
        assert alone.sequences[0, -GEN:].tolist() == together.sequences[b, -GEN:].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]
        assert all(s <= ending.most_steps(BLOCK, 3) for s in alone.stats.steps[0])


def test_given_tokens_are_never_dropped():
    model = tiny_model("llama", torch.float32, False)
    x, _ = prompts(2, 20, seed=5)
    x[:, 2:15] = MASK
    x[1, 17:] = MASK
    decoder = DiffusionDecoder(model, u.EndOfText(u.LowConfidence(), EOS, 0.0), mask_id=MASK)
    out = decoder.infill(x)
    assert torch.equal(out.sequences[x != MASK], x[x != MASK])
    plain = DiffusionDecoder(model, u.LowConfidence(), mask_id=MASK).infill(x)
    assert torch.equal(out.sequences[0], plain.sequences[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: u.EndOfText(u.Threshold(), ()), "EndOfText: eos: expected token ids, got"),
        (lambda: u.EndOfText(u.Threshold(), (1,), 2), "threshold: expected >= 0 and <= 1, got 2"),
        (lambda: u.EndOfText(u.Prophet(), (1,)), "the current block alone, got Prophet"),
        (lambda: u.EndOfText(u.Wino(), (1,)), "the current block alone, got Wino"),
        (lambda: build((VOCAB,)), "expected ids below 64 other than the mask 63, got"),
        (lambda: build((1,), attention=SparseD()), "does not go with sequences that are cut"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def build(eos, **options):
    model = tiny_model("llama", torch.float32, False)
    decoder = DiffusionDecoder(model, u.EndOfText(u.Threshold(), eos), mask_id=MASK, **options)
    return decoder.generate(prompts(1, 5, seed=1)[0], gen_length=4)
