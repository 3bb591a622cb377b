"""What the parity tests share: models as loops want them, and the draws of our generator."""

from functools import cache

import torch

from tiny import VOCAB, prompts, tiny_model
from tokenburst import zoo
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.ref.philox import gumbel, philox4x32
from tokenburst.zoo import sudoku

GEN = 12


class Case:
    """A model, its logits as the loops want them, and prompts."""

    def __init__(self, name, shifted=False):
        if name == "sudoku4":
            self.model, self.mask = zoo.load(name), 0
            _, solved = sudoku.puzzles(4, 3, seed=5, split="test", givens=0)
            self.prompts = [torch.cat([zoo.prompt_ids(name), row[:4]]) for row in solved]
        else:
            self.model, self.mask = tiny_model(name, torch.float32, False), VOCAB - 1
            self.prompts = [prompts(1, n, seed=n)[0][0] for n in (3, 8)]
        self.shifted = shifted

    def logits(self, x):
        with torch.no_grad():
            logits = self.model(x[None]).logits[0].float()
        logits[:, self.mask] = -1e30  # with guidance, too
        return torch.cat([logits[:1], logits[:-1]]) if self.shifted else logits

    def ours(self, policy, prompt, **options):
        decoder = DiffusionDecoder(self.model, policy, mask_id=self.mask, shifted=self.shifted)
        return decoder.generate(prompt[None], gen_length=GEN, **options).sequences[0]


@cache
def case(name, shifted=False):
    return Case(name, shifted)


def noise(length, vocab, seed):
    """j -> [L, V] Gumbel noise of the tokens that step j of a block draws."""
    v, place = torch.arange(vocab), torch.arange(length)[:, None]

    def at(j):
        words = philox4x32(torch.tensor(seed), (v // 4, place, torch.tensor(j), torch.tensor(0)))
        words = torch.stack([w.expand(length, vocab) for w in words])
        return gumbel(words.gather(0, (v % 4).expand(1, length, vocab))[0])

    return at


def chance(length, seed, word):
    """j -> [L] of one word of the noise of positions: random order, revealing, Gumbel."""
    apart = torch.tensor(0xFFFFFFFF)

    def at(j):
        counter = (apart, torch.arange(length), torch.tensor(j), torch.tensor(0))
        drawn = philox4x32(torch.tensor(seed), counter)[word]
        return gumbel(drawn) if word == 2 else (drawn >> 8) / 2**24

    return at
