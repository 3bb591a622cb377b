"""Online Speculative Decoding: a draft model learns, while it is used, where it was wrong."""

from typing import Any

import torch
from torch import Tensor

from tokenburst.decoders.around import Around
from tokenburst.decoders.drafting import Drafter, DraftState, Observation


class RejectionRecorder(Around):
    """Drafts as another drafter does and records what the target wanted where it was rejected.

    A record is a context, the text up to the rejected guess, and the target's best tokens there.
    Records lie on the device in a ring; the oldest give way.

    Args:
        drafter: whose guesses are judged.
        contexts: records that are kept.
        width: last tokens of the text that a record holds.
        candidates: best tokens of the target in a record, at most 64.

    Raises:
        ValueError: numbers out of range.

    Source: Liu et al., Online Speculative Decoding, arXiv 2310.07177.
    """

    def __init__(
        self, drafter: Drafter, contexts: int = 1024, width: int = 64, candidates: int = 16
    ) -> None:
        for name, value, most in (
            ("contexts", contexts, 2**31),
            ("width", width, 2**31),
            ("candidates", candidates, 64),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"RejectionRecorder: {name}: expected 1..{most}, got {value}")
        super().__init__(drafter)
        self.contexts, self.width = contexts, width
        self.candidates = max(candidates, drafter.candidates)
        self._kept = candidates
        self._tokens: Tensor | None = None  # [contexts + 1, width] int64, right aligned, -1 before

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """As the drafter's."""
        super().bind(vocab_size, device)
        if self._kept > vocab_size:
            raise ValueError(
                f"RejectionRecorder: candidates: expected <= {vocab_size} words of the "
                f"vocabulary, got {self._kept}"
            )
        if self._tokens is None or self._tokens.device != device:
            size = self.contexts + 1  # one spare takes what is no record
            self._tokens = torch.full((size, self.width), -1, device=device)
            self._ids = torch.zeros(size, self._kept, dtype=torch.int64, device=device)
            self._values = torch.zeros(size, self._kept, device=device)
            self._seen = torch.zeros((), dtype=torch.int64, device=device)  # records ever made

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Records, then as the drafter's."""
        if self._drafted:
            self._record(state, seen)
        k = self.drafter.candidates
        own = seen._replace(ids=seen.ids[:, :, :k], values=seen.values[:, :, :k])
        super().observe(state, own)

    def _record(self, state: DraftState, seen: Observation) -> None:
        """One record of each row in which something was guessed after the accepted path."""
        if self._tokens is None:
            return
        reached = (seen.n_accepted - 1).clamp(min=0).long()[:, None]
        last = seen.path.gather(1, reached).clamp(min=0).long()
        column = torch.arange(seen.tokens.shape[1], device=last.device)
        real = (column < seen.count[:, None]) & (seen.tokens >= 0)
        wrong = ((seen.tree.parents == last) & real).any(1)
        order = self._seen + wrong.cumsum(0) - 1
        slot = torch.where(wrong, order % self.contexts, self.contexts)
        # The text as it stands on the accepted path.
        place = state.length[:, None] + reached - self.width
        place = place + torch.arange(self.width, device=place.device)
        beyond = (place - state.length[:, None] + 1).clamp(0, seen.path.shape[1] - 1)
        node = seen.path.gather(1, beyond).clamp(min=0).long()
        known = state.tokens.gather(1, place.clamp(0, state.tokens.shape[1] - 1))
        text = torch.where(place < state.length[:, None], known, seen.tokens.gather(1, node))
        at = last[:, :, None].expand(-1, 1, self._kept)
        self._tokens[slot] = text.masked_fill(place < 0, -1)
        self._ids[slot] = seen.ids.gather(1, at)[:, 0]
        self._values[slot] = seen.values.gather(1, at)[:, 0]
        self._seen += wrong.sum()

    def records(self) -> tuple[Tensor, Tensor, Tensor]:
        """Contexts [R, width] int64 (-1 before the text), best ids and their logits [R, k]."""
        if self._tokens is None:
            raise ValueError("RejectionRecorder: expected a decoded text, got none")
        count = min(int(self._seen), self.contexts)
        return tuple(t[:count].clone() for t in (self._tokens, self._ids, self._values))  # type: ignore[return-value]

    def clear(self) -> None:
        """Forgets all records."""
        if self._tokens is not None:
            self._seen = torch.zeros_like(self._seen)


class OnlineTrainer:
    """Updates a draft model between generations, from the records of its rejections.

    The loss is the cross-entropy of the target's best tokens, after the recorded contexts only.
    Call `step` between calls of `generate`, never during one: a draft must be judged by the
    distribution that it was drawn from.

    Args:
        model: the draft model that the recorder's drafter uses.
        recorder: where the records come from.
        lr: of AdamW.
        batch: records of one optimiser step.

    Source: Liu et al., Online Speculative Decoding, arXiv 2310.07177.
    """

    def __init__(
        self, model: Any, recorder: RejectionRecorder, lr: float = 1e-3, batch: int = 64
    ) -> None:
        if batch < 1:
            raise ValueError(f"OnlineTrainer: batch: expected >= 1, got {batch}")
        self.model, self.recorder, self.batch = model, recorder, batch
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def step(self, epochs: int = 1) -> float:
        """Learns from all records, then forgets them; returns the mean loss of the last epoch.

        NaN where there is no record.
        """
        contexts, ids, values = self.recorder.records()
        total = float("nan")
        with torch.enable_grad():
            for _ in range(epochs if len(contexts) else 0):
                losses = []
                for rows in torch.randperm(len(contexts)).to(contexts.device).split(self.batch):
                    loss = self._loss(contexts[rows], ids[rows], values[rows])
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    losses.append(loss.detach())
                total = float(torch.stack(losses).mean())
        self.optimizer.zero_grad()
        self.recorder.clear()
        return total

    def _loss(self, contexts: Tensor, ids: Tensor, values: Tensor) -> Tensor:
        real = contexts >= 0
        place = (real.cumsum(1) - 1).clamp(min=0)
        out = self.model(contexts.clamp(min=0), attention_mask=real.long(), position_ids=place)
        mine = out.logits[:, -1].float().log_softmax(-1).gather(1, ids)
        return -(values.float().softmax(-1) * mine).sum(-1).mean()
