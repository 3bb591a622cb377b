"""Any-subset speculative decoding: an any-order model drafts for itself, exactly."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import LateFlag


class AnyOrderModel(Protocol):
    """A model of any token given any others."""

    def __call__(self, tokens: Tensor, rank: Tensor, positions: Tensor, bound: Tensor) -> Tensor:
        """Logits of chosen tokens, each given those that come before a bound in the order.

        Args:
            tokens: [B, S] int64; what is not known yet holds anything.
            rank: [B, S] int64, place of each position in the order of its row.
            positions: [B, n] int64, whose logits are wanted.
            bound: [B, n] int64: tokens of rank below it are seen, no others.

        Returns:
            [B, n, V].
        """


@dataclass(frozen=True)
class AnySubsetOutput:
    """Completed sequences and what they cost."""

    sequences: Tensor  # [B, S] int64
    calls: Tensor  # [B] int64: model calls that the row took part in
    rounds: int


class AnySubsetDecoder:
    """Fills in the missing tokens of each row in a given order, up to k per round.

    A round drafts the next k tokens independently, all given what is decided, in one call, and
    judges them in a second one, each given those before it. The first draft of a round has the
    law it is judged by, so it is accepted without a look; a row with one token to go, or k = 1,
    takes the first call only. A round so gives at least as many tokens as calls. The result has
    the model's own law for this order, token after token.

    Args:
        model: see `AnyOrderModel`.
        k: tokens per round.

    Raises:
        ValueError: k < 1.

    Source: Guo and Ermon, Reviving Any-Subset Autoregressive Models with Principled Parallel
        Sampling and Speculative Decoding, arXiv 2504.20456.
    """

    def __init__(self, model: AnyOrderModel, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"AnySubsetDecoder: k: expected >= 1, got {k}")
        self.model, self.k = model, k

    @torch.inference_mode()
    def infill(
        self,
        tokens: Tensor,
        given: Tensor,
        *,
        rank: Tensor | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> AnySubsetOutput:
        """Decides every token that is not given.

        Args:
            tokens: [B, S] int64.
            given: [B, S] bool: known tokens.
            rank: [B, S] int64, a permutation per row that puts known tokens first; default: known
                ones, then the others, from left to right.
            temperature: of the model's distributions, 0 = the most probable token each time.
            seed: of the random numbers; row b is sequence b.

        Raises:
            ValueError: wrong shapes or dtypes, a rank that is no such permutation, temperature < 0.
        """
        order = self._order(tokens, given, rank)
        if temperature < 0:
            raise ValueError(f"infill: temperature: expected >= 0, got {temperature}")
        run = _Run(self.model, tokens, given, order, temperature, seed)
        finished, rounds = LateFlag(tokens.device), 0
        while rounds < tokens.shape[1] and not finished((run.decided == run.size).all()):
            run.round(self.k)
            rounds += 1
        return AnySubsetOutput(run.tokens.clone(), run.calls, rounds)

    def _order(self, tokens: Tensor, given: Tensor, rank: Tensor | None) -> Tensor:
        """Positions [B, S] in the order of deciding."""
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            got = f"{tokens.dtype} {tuple(tokens.shape)}"
            raise ValueError(f"infill: tokens: expected int64 [batch, length], got {got}")
        if given.shape != tokens.shape or given.dtype != torch.bool:
            got = f"{given.dtype} {tuple(given.shape)}"
            raise ValueError(f"infill: given: expected bool {tuple(tokens.shape)}, got {got}")
        if rank is None:
            return (~given).to(torch.int8).argsort(dim=1, stable=True)
        if rank.shape != tokens.shape or rank.dtype != torch.int64:
            got = f"{rank.dtype} {tuple(rank.shape)}"
            raise ValueError(f"infill: rank: expected int64 {tuple(tokens.shape)}, got {got}")
        order = rank.argsort(dim=1)
        place = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
        known_first = given.gather(1, order) == (place < given.sum(1, keepdim=True))
        if not bool((rank.gather(1, order) == place).all()) or not bool(known_first.all()):
            raise ValueError("infill: rank: expected permutations with the known tokens first")
        return order


class _Run:
    """One call of infill."""

    def __init__(
        self,
        model: AnyOrderModel,
        tokens: Tensor,
        given: Tensor,
        order: Tensor,
        temperature: float,
        seed: int,
    ) -> None:
        batch, self.size = tokens.shape
        device = tokens.device
        self.model, self.tokens, self.order = model, tokens.clone(), order
        self.rank = order.argsort(dim=1)
        self.decided = given.sum(1)
        self.calls = torch.zeros(batch, dtype=torch.int64, device=device)
        self.heat = torch.full((batch,), temperature, device=device)
        name = torch.arange(batch, device=device)
        self.name = torch.stack([torch.full_like(name, seed), name], 1)

    def round(self, k: int) -> None:
        """Drafts up to k tokens per row and keeps what is as good as decided one by one."""
        batch, n = len(self.tokens), self.decided
        left = self.size - n
        k = min(k, self.size)
        place = n[:, None] + torch.arange(k, device=n.device)
        positions = self.order.gather(1, place.clamp(max=self.size - 1))
        logits = self.model(self.tokens, self.rank, positions, n[:, None].expand(-1, k))
        named = torch.cat([self.name, n[:, None]], 1)
        each = torch.cat([named[:, None].expand(-1, k, -1), place[:, :, None]], 2)
        heat = self.heat.repeat_interleave(k)
        drawn = ops.vocab_sample(logits, 1, heat, each.reshape(-1, 4)).ids.view(batch, k)
        count = left.clamp(max=k)
        kept, tokens = count.clamp(max=1), drawn
        self.calls += (left > 0).long()
        if k > 1:
            kept, tokens = self._judge(drawn, logits, positions, place, named, count)
            self.calls += (left > 1).long()
        column = torch.arange(k, device=n.device)
        # What is not kept writes a token over itself.
        old = self.tokens.gather(1, positions)
        new = torch.where(column < kept[:, None], tokens, old)
        self.tokens.scatter_(1, positions, new)
        # Rows near their end repeat their last position; the first of them has the token.
        last = self.order[:, -1:]
        at_end = (column < kept[:, None]) & (place == self.size - 1)
        final = torch.where(at_end, tokens, 0).sum(1, keepdim=True)
        now = torch.where(at_end.any(1, keepdim=True), final, self.tokens.gather(1, last))
        self.tokens.scatter_(1, last, now)
        self.decided = n + kept

    def _judge(
        self,
        drawn: Tensor,
        logits: Tensor,
        positions: Tensor,
        place: Tensor,
        named: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """How many tokens [B] stand, and the tokens [B, k], the rejected one replaced."""
        batch, k = drawn.shape
        proposed = self.tokens.scatter(1, positions[:, :1], drawn[:, :1])
        for i in range(1, k):  # in turn: rows near their end repeat their last position
            inside = (place[:, i : i + 1] < self.size) & (count[:, None] > i)
            here = positions[:, i : i + 1]
            token = torch.where(inside, drawn[:, i : i + 1], proposed.gather(1, here))
            proposed.scatter_(1, here, token)
        own = self.model(proposed, self.rank, positions, place)
        # A chain: its root is the first draft, which has been accepted; what follows the last node
        # is not asked for, so its row may be any.
        parent = torch.arange(-1, k - 1, device=drawn.device).expand(batch, -1)
        out = ops.tree_verify_sample(
            *(drawn, parent, count, own.roll(-1, dims=1), "rrs", named),
            temperature=self.heat,
            draft_logits=logits,
            draft_temperature=self.heat,
            draft_row=torch.arange(k, device=drawn.device).expand(batch, -1),
        )
        accepted = out.n_accepted.long()
        column = torch.arange(k, device=drawn.device)
        tokens = torch.where(column == accepted[:, None], out.next_token[:, None], drawn)
        return torch.minimum(accepted + 1, count), tokens
