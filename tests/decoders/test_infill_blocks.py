"""Filling masks in place, block after block, and the vote over such fillings."""

import pytest
import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders.diffusion import DiffusionDecoder, LowConfidence, Threshold
from tokenburst.decoders.voting import hex_vote

MASK = VOCAB - 1


def decoder(policy=LowConfidence(), **changes):  # noqa: B008
    model = tiny_model("llama", torch.float32, False)
    return DiffusionDecoder(model, policy, mask_id=MASK, **changes)


def sequences():
    """Three rows, the second one shorter, with 5, 3 and no masks."""
    ids, mask = prompts(3, 9, seed=4)[0], torch.ones(3, 9, dtype=torch.int64)
    mask[1, :2] = 0
    for row, places in enumerate([(0, 2, 3, 6, 8), (3, 4, 8), ()]):
        ids[row, list(places)] = MASK
    return ids, mask


def by_hand(ids, block):
    """One mask per forward of a sequence [L], the best of the first block that has any."""
    model, x = tiny_model("llama", torch.float32, False), ids.clone()
    places = (ids == MASK).nonzero()[:, 0]
    for part in places.split(block):
        for _ in part:
            logits = model(x[None]).logits[0]
            logits[:, MASK] = -torch.inf
            c, token = logits.softmax(-1).max(-1)
            best = max((i for i in part.tolist() if x[i] == MASK), key=lambda i: float(c[i]))
            x[best] = token[best]
    return x.tolist()


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
def test_masks_are_filled_block_after_block(block):
    ids, mask = sequences()
    out = decoder().infill(ids, mask, block_length=block)
    for row in range(3):
        real = mask[row] == 1
        assert out.sequences[row, real].tolist() == by_hand(ids[row, real], block)
    assert torch.equal(out.sequences[mask == 0], ids[mask == 0])
    full = [min(block, 5 - at) for at in range(0, 5, block)]
    assert out.stats.steps[0] == full and sum(out.stats.steps[1]) == 3
    if block >= 5:
        assert torch.equal(out.sequences, decoder().infill(ids, mask).sequences)


def test_rows_have_blocks_of_their_own():
    ids, mask = sequences()
    sizes = torch.tensor([2, 1, 4])
    together = decoder(Threshold(0.1)).infill(ids, mask, block_length=sizes)
    for row in range(3):
        one = slice(row, row + 1)
        alone = decoder(Threshold(0.1)).infill(ids[one], mask[one], block_length=int(sizes[row]))
        assert torch.equal(alone.sequences[0], together.sequences[row])


def test_the_vote_of_fillings():
    ids, mask = sequences()
    vote = hex_vote(
        decoder(LowConfidence(tokens_per_step=2)), ids, mask, blocks=(2, 5), seeds=3,
        gen_length=None, answer=lambda row: tuple(row.tolist()),
    )  # fmt: skip
    assert vote.sequences.shape == (3, 6, 9)
    for row, answer in enumerate(vote.answers):
        assert list(answer) in vote.sequences[row].tolist()
        assert vote.votes[row][answer] == max(vote.votes[row].values())
    assert vote.answers[2] == tuple(ids[2].tolist())  # nothing to fill


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 0}, "infill: block_length: expected an integer >= 1, got 0"),
        ({"block_length": torch.tensor([1, 2])}, "infill: block_length: expected an integer or 3"),
        ({"block_length": torch.tensor([1, 0, 2])}, "block_length: expected integers >= 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        decoder().infill(sequences()[0], **options)


def test_steps_that_do_not_divide_among_the_blocks_are_refused():
    with pytest.raises(ValueError, match="steps: expected a multiple of the 3 blocks, got 4"):
        decoder(LowConfidence(4)).infill(sequences()[0], block_length=2)


@pytest.mark.parametrize("op", ["generate", "infill"])
@pytest.mark.parametrize("block", [3, torch.tensor([4])])
def test_a_block_causal_model_has_its_own_blocks(block, op):
    model = tiny_model("qwen3", torch.float32, False)
    try:
        model.config.block_causal, model.config.block_length = True, 4
        made = DiffusionDecoder(model, LowConfidence(), mask_id=MASK)
    finally:
        del model.config.block_causal, model.config.block_length
    with pytest.raises(ValueError, match=f"{op}: block_length: expected None or 4, the model's"):
        getattr(made, op)(prompts(1, 4, seed=1)[0], block_length=block)
