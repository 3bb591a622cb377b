"""Sampling several tokens of a step jointly: what the sampler is told, and what it can learn."""

import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst import zoo
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.zoo import samplers, sudoku

MASK = VOCAB - 1


def test_a_step_by_hand():
    """One forward, then each pass of the sampler commits the surest of the masks that are left."""
    model = tiny_model("llama", torch.float32, False)
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    torch.manual_seed(2)
    sampler = samplers.LayerSampler(64, 32)
    torch.nn.init.normal_(sampler.leave.weight, std=0.2)
    ids, x = prompts(1, 5, seed=2)[0], torch.full((1, 13), MASK)
    x[:, :5] = ids
    with torch.no_grad():
        while bool((x == MASK).any()):
            hidden, masks = model.model(x).last_hidden_state, (x == MASK)[0].nonzero()[:, 0]
            position, drawn, moved = masks[None], torch.zeros(len(masks), dtype=torch.bool), hidden
            for turn in range(min(3, len(masks))):
                if turn:
                    told = embed(x[:, masks]) * drawn[None, :, None]
                    moved = sampler(hidden[:, masks], told, position)
                logits = head(moved if turn else hidden[:, masks])[0]
                logits[:, MASK] = -torch.inf
                c, token = logits.softmax(-1).max(-1)
                best = int(c.masked_fill(drawn, -1).argmax())
                x[0, masks[best]], drawn[best] = token[best], True
    decoder = DiffusionDecoder(model, u.JointSampling(sampler, 3), mask_id=MASK)
    out = decoder.generate(ids, gen_length=8)
    assert out.sequences.tolist() == x.tolist() and out.stats.forwards == 3


def test_an_untrained_sampler_draws_from_the_model():
    model = tiny_model("llama", torch.float32, False)
    ids, mask = prompts(3, 6, seed=1, ragged=True)
    runs = [
        DiffusionDecoder(model, policy, mask_id=MASK).generate(ids, mask, gen_length=6)
        for policy in (
            u.JointSampling(samplers.LayerSampler(64, 32), 2),
            u.LowConfidence(tokens_per_step=2),
        )
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)


def test_a_sampler_learns_that_digits_exclude_each_other():
    """Boards with three givens, three digits per step: marginals alone contradict each other."""
    sampler = samplers.train("sudoku4", steps=120, batch=24)
    model, prompt = zoo.load("sudoku4"), zoo.prompt_ids("sudoku4")
    asked, _ = sudoku.puzzles(4, 100, seed=2, split="test", givens=3, unique=False)
    ids = torch.cat([prompt.expand(100, -1), asked], 1)
    solved = []
    for policy in (u.LowConfidence(tokens_per_step=3), u.JointSampling(sampler, 3)):
        out = DiffusionDecoder(model, policy).infill(ids)
        solved.append(int(sudoku.is_solved(out.sequences[:, 1:], asked).sum()))
    assert solved[1] > solved[0] + 5
