"""Drafts looked up in what was said before, in plain Python."""

import torch
from torch import Tensor


def ngram_match(
    tokens: Tensor,
    length: Tensor,
    k: int,
    *,
    most: int = 3,
    least: int = 1,
    whole: bool = False,
    latest: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tries n = most .. least at every start; see `tokenburst.ops.ngram_match`."""
    drafts, counts, agreed = [], [], []
    for row, size in zip(tokens.tolist(), length.tolist(), strict=True):
        draft, n = _match(row[:size], k, most, least, whole, latest)
        drafts.append(draft + [-1] * (k - len(draft)))
        counts.append(len(draft))
        agreed.append(n)
    shape = tokens.shape[0], k
    made = torch.tensor(drafts, dtype=torch.int64).reshape(shape).to(tokens.device)
    return made, *(torch.tensor(x, dtype=torch.int32).to(tokens.device) for x in (counts, agreed))


def _match(
    row: list[int], k: int, most: int, least: int, whole: bool, latest: bool
) -> tuple[list[int], int]:
    """The draft of one sequence and the tokens that agreed."""
    size = len(row)
    for n in range(min(most, size), least - 1, -1):
        starts = range(n, size)
        for start in reversed(starts) if latest else starts:
            if whole and (start + k > size or start >= size - n):
                continue
            if row[start - n : start] == row[size - n :]:
                return row[start : start + k], n
    return [], 0
