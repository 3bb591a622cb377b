"""The text of a batch on the device: prompts, and what is appended until each row ends."""

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StopStringCriteria

from tokenburst import ops
from tokenburst.decoders.drafting import DraftState
from tokenburst.decoders.treechance import RowChances, mark_seen_, seen_words

_PER_ROW = ("tokens", "length", "root", "active", "temperature", "rng", "start", "end", "home")
_NO_TOKEN = 2**31 - 1  # what a stop string sees before the text begins


class TreeText(DraftState):
    """`DraftState` that grows. Everything happens in place and without the host.

    Args:
        prompt: [B, P] int64, packed to the left.
        lengths: [B] int32.
        limit: [B] int32, most new tokens of each row.
        most: the largest of them.
        sampling: how tokens are drawn.
        vocab_size: of the model.
        eos: ids that end a row.
        stop: what ends a row by its text.
        widest: nodes of the widest draft that `append` is given.
    """

    def __init__(
        self,
        prompt: Tensor,
        lengths: Tensor,
        limit: Tensor,
        most: int,
        sampling: RowChances,
        *,
        vocab_size: int,
        eos: list[int],
        stop: StopStringCriteria | None,
        widest: int,
    ) -> None:
        device, batch = prompt.device, len(prompt)
        last = lengths.long() - 1
        super().__init__(
            # One spare column takes what lies past the end of a row.
            tokens=torch.nn.functional.pad(prompt, (0, most + 1)),
            length=lengths.clone(),
            root=prompt.gather(1, last[:, None])[:, 0],
            active=torch.ones(batch, dtype=torch.bool, device=device),
            temperature=sampling.temperature,
            rng=torch.stack([sampling.seed, sampling.sequence, last], dim=1),
            greedy=sampling.greedy,
        )
        self.start = lengths  # where the new tokens begin
        self.end = lengths + limit
        self.active &= limit > 0
        self.home = torch.arange(batch, device=device)  # row of the caller
        self.filters = dict(sampling.filters)
        if "repetition_penalty" in self.filters:
            self.filters["seen"] = seen_words(prompt, lengths, vocab_size)
        self._all = {name: getattr(self, name) for name in _PER_ROW} | self.filters
        self.most = most
        self.eos = torch.tensor(eos, dtype=torch.int64, device=device) if eos else None
        self._stop = stop
        if stop is not None:
            self._window = torch.arange(1 - stop.maximum_token_len, 1, device=device)
        self._column = torch.arange(max(most, widest), device=device)

    def append(
        self,
        drafted: Tensor,
        path: Tensor,
        n_accepted: Tensor,
        next_token: Tensor,
        kv_len: Tensor | None = None,
    ) -> None:
        """Append the path of a verified draft [B, N]; end rows at eos, a stop or their limit.

        `next_token` [B], the last token that is appended, becomes the root of rows that go on.
        `kv_len` [B] grows by as many tokens as a row takes.
        """
        end = self.end
        if self._stop is not None or "seen" in self.filters:
            tokens, counts = self._decided(drafted, path, n_accepted, next_token)
            if self._stop is not None:
                end = torch.minimum(end, self._stop_at(self._stop, tokens, counts))
        taken = ops.tree_append_(
            *(self.tokens, self.length, self.root, self.active, self.rng, end),
            *(drafted, path, n_accepted, next_token),
            eos=self.eos,
            kv_len=kv_len,
        )
        if "seen" in self.filters:
            mark_seen_(self.filters["seen"], tokens, taken)

    def _decided(
        self, drafted: Tensor, path: Tensor, n_accepted: Tensor, next_token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tokens [B, N] of a step, and how many of them there is room for."""
        below = torch.nn.functional.pad(path[:, 1:], (0, 1), value=-1).long()
        tokens = drafted.gather(1, below.clamp(min=0))
        tokens = torch.where(below < 0, next_token[:, None], tokens)
        return tokens, torch.minimum(n_accepted, self.end - self.length)

    def _stop_at(self, stop: StopStringCriteria, tokens: Tensor, counts: Tensor) -> Tensor:
        """Length [B] int32 of the text at the first token that completes a stop string.

        Writes the tokens behind the text, where they are written again.
        """
        width, spare = tokens.shape[1], self.tokens.shape[1] - 1
        column = self._column[:width]
        place = torch.where(column < counts[:, None], self.length[:, None] + column, spare)
        self.tokens.scatter_(1, place, tokens)
        at = place[:, :, None] + self._window  # [B, S, W]
        window = self.tokens.gather(1, at.clamp(min=0).flatten(1)).view_as(at)
        window = torch.where((at >= 0) & (window >= 0), window, _NO_TOKEN)
        ends = stop(window.flatten(0, 1), None).view_as(tokens) & (column < counts[:, None])
        first = torch.where(ends, column, spare).amin(1)
        return (self.length + first + 1).to(torch.int32)

    def keep(self, order: Tensor, rows: int) -> None:
        """Reorders the rows so that row i was row order[i], and goes on with the first `rows`."""
        for name, x in self._all.items():
            x[: len(order)] = x[order]
            self._narrow(name, x[:rows])

    def restore(self) -> Tensor:
        """All rows again, as the caller has them; returns the order [B] that does it."""
        order = self._all["home"].argsort()
        self.keep(order, len(order))
        return order

    def _narrow(self, name: str, x: Tensor) -> None:
        if name in _PER_ROW:
            setattr(self, name, x)
        else:
            self.filters[name] = x

    def new_tokens(self) -> tuple[Tensor, Tensor]:
        """New tokens [B, most] of all rows, anything after the end, and how many are real [B]."""
        order = self._all["home"].argsort()
        start, tokens = self._all["start"][order], self._all["tokens"][order]
        place = start[:, None] + self._column[: self.most]
        return tokens.gather(1, place), self._all["length"][order] - start
