"""HEX: many semi-autoregressive decodings with different blocks, and a majority vote."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.diffusionstats import DiffusionStats
from tokenburst.decoders.unmasking import check_count


@dataclass(frozen=True)
class Vote:
    """The answers to each prompt, and which one won."""

    answers: list[Hashable]  # of each prompt
    votes: list[Counter]  # of each prompt: answer -> number of decodings
    sequences: Tensor  # [B, decodings, L]: blocks ascend, seeds within them
    stats: DiffusionStats


def hex_vote(
    decoder: DiffusionDecoder,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    answer: Callable[[Tensor], Hashable],
    gen_length: int | None = 256,
    blocks: Sequence[int] = (8, 16, 32, 64, 128),
    seeds: int = 5,
    temperature: float = 0.9,
    **options: Any,
) -> Vote:
    """Decodes every prompt with every block length and seed in one batch, and votes.

    Args:
        decoder: with the policy of all decodings; published: `LowConfidence(tokens_per_step=2)`.
        input_ids: [B, P] int64 prompts, or sequences with masks in place.
        attention_mask: [B, P].
        answer: what a decoding says, from its new tokens [gen_length], or from the whole sequence
            [P] where masks are filled in place; None is no vote.
        gen_length: tokens to append; None fills the masks in place, as `DiffusionDecoder.infill`.
        blocks: block lengths; the vote of the smaller one counts where there is a tie.
        seeds: decodings of each block length.
        temperature: of all decodings.
        options: of `DiffusionDecoder.generate` or `infill`.

    Returns:
        `Vote`.

    Raises:
        ValueError: no blocks, and as `DiffusionDecoder.generate` or `infill`.

    Source: HEX, arXiv 2510.05040.
    """
    check_count("hex_vote: seeds", seeds)
    if not blocks:
        raise ValueError("hex_vote: blocks: expected at least one block length, got none")
    order = sorted(blocks)
    each, batch = len(order) * seeds, len(input_ids)
    sizes = torch.tensor(order).repeat_interleave(seeds).repeat(batch)
    decode: Callable[..., Any] = decoder.infill
    if gen_length is not None:
        decode, options = decoder.generate, options | {"gen_length": gen_length}
    out = decode(
        input_ids.repeat_interleave(each, 0),
        None if attention_mask is None else attention_mask.repeat_interleave(each, 0),
        block_length=sizes,
        temperature=temperature,
        seed=torch.arange(seeds).repeat(batch * len(order)),
        **options,
    )
    sequences = out.sequences.unflatten(0, (batch, each))
    votes, answers = [], []
    for rows in sequences:
        said = [answer(row[-(gen_length or 0) :]) for row in rows]
        count = Counter(value for value in said if value is not None)
        best = max(count.values(), default=0)
        votes.append(count)
        answers.append(next((v for v in said if v is not None and count[v] == best), None))
    return Vote(answers, votes, sequences, out.stats)
