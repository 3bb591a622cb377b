"""Recall over a long text: pages of key-value pairs, then keys whose values are to be filled in.

    key value key value ... | key ? key ? ...

Keys of a text are distinct. Each group of 8 questions asks for the keys of two pages (8 pairs) in
random order, as a passage of a long text refers to a few others, so a block of questions needs few
blocks of the text. All of it is drawn afresh: nothing is ever seen twice.
"""

import torch
from torch import Tensor

PAGE = 4  # pairs
QUESTIONS = 64
GROUP = 8  # questions that share two pages
MASK, KEYS, VALUES = 0, 512, 64
FIRST_KEY, FIRST_VALUE = 1, 1 + KEYS
VOCAB = 1 + KEYS + VALUES
MOST_PAGES = KEYS // PAGE


def texts(
    count: int, pages: int = 96, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Random texts with their answers masked, and whole.

    Args:
        count: number of texts.
        pages: of 4 pairs, 2 to 128.
        generator: of the draws; None makes one from seed 1.

    Returns:
        masked and solved, both [count, 8 * pages + 128] int64.
    """
    if not 2 <= pages <= MOST_PAGES:
        raise ValueError(f"recall: pages must be 2 to {MOST_PAGES}, got {pages}")
    generator = generator or torch.Generator().manual_seed(1)

    def shuffled(rows: int, n: int) -> Tensor:
        return torch.rand(rows, n, generator=generator).argsort(1)

    pairs = pages * PAGE
    keys = FIRST_KEY + shuffled(count, KEYS)[:, :pairs]
    values = FIRST_VALUE + torch.randint(VALUES, (count, pairs), generator=generator)
    groups = count * QUESTIONS // GROUP
    pair = shuffled(groups, pages)[:, :2].repeat_interleave(PAGE, 1) * PAGE
    pair = (pair + torch.arange(GROUP) % PAGE).gather(1, shuffled(groups, GROUP))
    pair = torch.cat([torch.arange(pairs).expand(count, -1), pair.view(count, QUESTIONS)], 1)
    solved = torch.stack([keys.gather(1, pair), values.gather(1, pair)], 2).flatten(1)
    masked = solved.clone()
    masked[:, 2 * pairs + 1 :: 2] = MASK
    return masked, solved
