"""The text of a batch on the device: prompts, and what is appended until each row ends."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import DraftState


class TreeText(DraftState):
    """`DraftState` that grows. Everything happens in place and without the host.

    Args:
        prompt: [B, P] int64, packed to the left.
        lengths: [B] int32.
        limit: [B] int32, most new tokens of each row.
        most: the largest of them.
        eos: ids that end a row.
        widest: most tokens that `append` is given per row.
    """

    def __init__(
        self,
        prompt: Tensor,
        lengths: Tensor,
        limit: Tensor,
        most: int,
        eos: list[int],
        widest: int,
    ) -> None:
        device, batch = prompt.device, len(prompt)
        last = (lengths - 1)[:, None].long()
        super().__init__(
            # One spare column takes what lies past the end of a row.
            tokens=torch.nn.functional.pad(prompt, (0, most + 1)),
            length=lengths.clone(),
            root=prompt.gather(1, last)[:, 0],
            active=torch.ones(batch, dtype=torch.bool, device=device),
            temperature=torch.zeros(batch, dtype=torch.float32, device=device),
            rng=torch.zeros(batch, 3, dtype=torch.int64, device=device),
            greedy=True,
        )
        self.start = lengths  # where the new tokens begin
        self.end = lengths + limit
        self.most = most
        self.eos = torch.tensor(eos, dtype=torch.int64, device=device) if eos else None
        self._column = torch.arange(max(most, widest), device=device)

    def append(self, tokens: Tensor, counts: Tensor, next_token: Tensor) -> Tensor:
        """Append the first counts[b] of tokens [B, S]; end rows at eos or at their limit.

        `next_token` [B], the last of them, becomes the root of rows that go on. Returns how many
        tokens [B] each row took.
        """
        column = self._column[: tokens.shape[1]]
        counts = torch.minimum(counts, self.end - self.length)
        if self.eos is not None:
            ends = torch.isin(tokens, self.eos) & (column < counts[:, None])
            # Nothing after the first eos.
            first = torch.where(ends, column, tokens.shape[1]).amin(1)
            counts = torch.minimum(counts, first + 1).to(torch.int32)
            self.active &= first == tokens.shape[1]
        spare = self.tokens.shape[1] - 1
        place = torch.where(column < counts[:, None], self.length[:, None] + column, spare)
        self.tokens.scatter_(1, place, tokens)
        self.length += counts
        self.active &= self.length < self.end
        self.root.copy_(torch.where(self.active, next_token, self.root))
        return counts

    def new_tokens(self) -> tuple[Tensor, Tensor]:
        """New tokens [B, most], anything after the end, and how many are real [B]."""
        place = self.start[:, None] + self._column[: self.most]
        return self.tokens.gather(1, place), self.length - self.start
