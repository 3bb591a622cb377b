"""The forward over the prompts, or over what of them is not in the cache yet."""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import whole
from tokenburst.decoders.drafting import DeviceTree, Drafter, Observation
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treetarget import Target
from tokenburst.decoders.treetext import TreeText
from tokenburst.models.attention import TokenContext

CHUNK = 128  # prompt tokens per sequence that a drafter is shown at a time


class ScoredPrompts(NamedTuple):
    """What the forward gave."""

    known: Tensor  # [B] int32: tokens that were in the cache before
    count: Tensor  # [B] int32: tokens scored after them
    hidden: Tensor  # [B, N, hidden] of the scored tokens
    last: Tensor  # [B, hidden]: after the last token of each prompt


def score_prompts(target: Target, text: TreeText) -> ScoredPrompts:
    """Scores the prompts from `cache.kv_len` on, which then stands at their ends."""
    cache = target.cache
    known = cache.kv_len.clone()
    count = text.start - known
    width = whole(int(count.max()))
    column = torch.arange(width, device=known.device)
    place = (known[:, None] + column).clamp(max=text.tokens.shape[1] - 1)
    hidden = target.forward(text.tokens.gather(1, place), column[None], TokenContext(known, count))
    last = (count.long() - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
    cache.kv_len.copy_(text.start)
    return ScoredPrompts(known, count, hidden, hidden.gather(1, last)[:, 0])


def learn_prompt(target: Target, drafter: Drafter, text: TreeText, scored: ScoredPrompts) -> None:
    """Shows the drafter the target's best tokens after each scored token, a chunk at a time."""
    batch, width, size = scored.hidden.shape
    k = drafter.candidates
    column = torch.arange(CHUNK, dtype=torch.int32, device=scored.hidden.device)
    tree = DeviceTree.from_template(TreeTemplate.chain(CHUNK - 1), batch, scored.hidden.device)
    for begin in range(0, width, CHUNK):
        part = scored.hidden[:, begin : begin + CHUNK]
        best = ops.vocab_top(target.logits(part.reshape(-1, size)), k)
        missing = CHUNK - part.shape[1]
        ids, values = (
            torch.nn.functional.pad(x.view(batch, -1, k), (0, 0, 0, missing)) for x in best
        )
        start, count = scored.known + begin, (scored.count - begin).clamp(0, CHUNK)
        place = (start[:, None] + column).clamp(max=text.tokens.shape[1] - 1).long()
        after = (start + count).clamp(max=text.tokens.shape[1] - 1).long()[:, None]
        seen = Observation(
            tokens=text.tokens.gather(1, place),
            tree=tree,
            count=count,
            start=start,
            ids=ids,
            values=values,
            path=torch.where(column < count[:, None], column, -1),
            n_accepted=count,
            next_token=text.tokens.gather(1, after)[:, 0],
        )
        drafter.observe(text, seen)
