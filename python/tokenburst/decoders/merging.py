"""Several drafters whose guesses become one tree."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenburst import ops
from tokenburst.decoders.drafting import (
    ChooseTree,
    DeviceTree,
    Draft,
    DraftDistribution,
    Drafter,
    DraftState,
    Observation,
)

_STREAM = 0x5DEECE66D  # tells the chance of one drafter from that of the next


class _Part(NamedTuple):
    """One drafter's share of a merged tree."""

    draft: Draft
    node: Tensor  # [B, N] int64: which merged node each of its own is; -1 = none


class Merged(Drafter):
    """Drafts with several drafters at once; what two of them guess alike is one node.

    Each drafter sees what the target made of the nodes it guessed itself, and a draft model reads
    the text as all of them wrote it.

    Args:
        drafters: two or more; draws of the first are tried first. Drafters that draw are verified
            by recursive rejection where they all draw without replacement, from one kind of
            distribution and at one draft temperature, otherwise by the target walk, which is exact
            for any guesses.

    Raises:
        ValueError: fewer than two drafters, one of them twice, or one with tree='auto'.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 3 (merged token trees).
    """

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self.drafters = tuple(drafters)
        if len(self.drafters) < 2 or len(set(map(id, self.drafters))) < len(self.drafters):
            names = ", ".join(type(d).__name__ for d in self.drafters) or "none"
            raise ValueError(f"Merged: drafters: expected two or more, each once, got {names}")
        for drafter in self.drafters:
            if getattr(drafter, "tree", None) == "auto":
                name = type(drafter).__name__
                raise ValueError(f"Merged: drafters: expected a tree for {name}, got 'auto'")
        self.candidates = max(d.candidates for d in self.drafters)
        self.prefill = any(d.prefill for d in self.drafters)
        kinds = {d.draws for d in self.drafters} - {None}
        self._recursive = len(kinds) < 2 and all("rrs" in d.exact_modes for d in self.drafters)
        self.draws = kinds.pop() if kinds and self._recursive else None
        self.verification = "walk" if self.draws is None else "rrs"

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """No other mode tries draws of several distributions one after the other."""
        return ("walk", "rrs") if self._recursive else ("walk",)

    @property
    def most_nodes(self) -> int:
        return 1 + sum(d.most_nodes - 1 for d in self.drafters)

    @property
    def most_depth(self) -> int:
        return max(d.most_depth for d in self.drafters)

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """As the drafters'."""
        for drafter in self.drafters:
            drafter.bind(vocab_size, device)

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """As the drafters'."""
        self._parts: list[_Part] | None = None
        for drafter, view in self._views(state):
            drafter.begin(view, choose_tree)

    def _views(self, state: DraftState) -> Iterator[tuple[Drafter, DraftState]]:
        """Each drafter, and the state with random numbers of its own: no two draw alike."""
        shared = max(state.shared, self.most_depth + 1)
        for i, drafter in enumerate(self.drafters):
            rng = state.rng
            if i > 0 and not state.greedy:
                rng = rng.clone()
                rng[:, 0].bitwise_xor_(i * _STREAM)
            yield (
                drafter,
                DraftState(
                    *(state.tokens, state.length, state.root, state.active, state.temperature),
                    *(rng, state.greedy, shared),
                ),
            )

    def draft(self, state: DraftState) -> Draft:
        """All trees below one root; a node that an earlier one equals is none."""
        drafts = [drafter.draft(view).padded() for drafter, view in self._views(state)]
        sizes = [
            min(draft.tokens.shape[1], drafter.most_nodes)
            for draft, drafter in zip(drafts, self.drafters, strict=True)
        ]
        tokens, parents, begin = [state.root[:, None]], [], 0
        for draft, nodes in zip(drafts, sizes, strict=True):
            column = torch.arange(1, nodes, device=state.root.device)
            real = column < draft.tree.count[:, None]
            tokens.append(draft.tokens[:, 1:nodes].where(real, -1))
            above = draft.tree.parents[:, 1:nodes]
            parents.append(torch.where(real & (above > 0), above + begin, 0))
            begin += nodes - 1
        parents.insert(0, torch.full_like(parents[0][:, :1], -1))
        merged = ops.tree_merge(torch.cat(tokens, 1), torch.cat(parents, 1))
        count = torch.full_like(drafts[0].tree.count, merged.tokens.shape[1])
        tree = DeviceTree.from_parents(merged.parent, count)
        node, begin, self._parts = merged.node.long(), 0, []
        for draft, nodes in zip(drafts, sizes, strict=True):
            end = begin + nodes - 1
            mine = torch.cat([node[:, :1], node[:, begin + 1 : end + 1]], 1)
            mine = pad(mine, (0, draft.tree.nodes - nodes), value=-1)
            self._parts.append(_Part(draft, mine))
            begin = end
        drawn = self.draws is not None and not state.greedy
        return Draft(merged.tokens, tree, _distribution(self._parts) if drawn else None)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Each drafter sees its own tree; a piece of the prompt is shown to those who want it."""
        for i, drafter in enumerate(self.drafters):
            k = drafter.candidates
            mine = seen._replace(ids=seen.ids[:, :, :k], values=seen.values[:, :, :k])
            if self._parts is not None:
                mine = _seen_by(self._parts[i], mine)
            if self._parts is not None or drafter.prefill:
                drafter.observe(state, mine)

    def keep(self, rows: Tensor) -> None:
        """As the drafters'."""
        for drafter in self.drafters:
            drafter.keep(rows)


def _distribution(parts: list[_Part]) -> DraftDistribution:
    """What the draws of all parts were made from, one after the other; what is no draw is certain.

    A token that two parts drew is one node and two draws.
    """
    draws, rows, kept, begin = [], [], [], 0
    for draft, node in parts:
        q, below = draft.q, pad(node[:, 1:], (1, 0), value=-1)  # the root was not drawn
        if q is None:
            draws.append(below)
            rows.append(torch.full_like(below, -1))
            continue
        row = draft.tree.parents if q.row is None else q.row
        if q.draws is not None:
            below = below.gather(1, q.draws.clamp(min=0).long()).masked_fill(q.draws < 0, -1)
        row = row[:, : below.shape[1]].long()
        draws.append(below)
        rows.append((row + begin).masked_fill(row < 0, -1))
        laws = q.ids if q.logits is None else q.logits
        begin += 0 if laws is None else laws.shape[1]
        kept.append(q)
    every = {"row": torch.cat(rows, 1), "draws": torch.cat(draws, 1)}
    if kept[0].logits is not None:
        logits = torch.cat([q.logits for q in kept if q.logits is not None], 1)
        return DraftDistribution(logits, kept[0].temperature, **every)
    sparse = [(q.ids, q.probs) for q in kept if q.ids is not None and q.probs is not None]
    width = max(ids.shape[2] for ids, _ in sparse)
    ids = torch.cat([pad(ids, (0, width - ids.shape[2]), value=-1) for ids, _ in sparse], 1)
    probs = torch.cat([pad(probs, (0, width - probs.shape[2])) for _, probs in sparse], 1)
    return DraftDistribution(ids=ids, probs=probs, **every)


def _seen_by(part: _Part, seen: Observation) -> Observation:
    """The observation in the numbers of one part's own tree."""
    draft, node = part
    tree, nodes = draft.tree, node.shape[1]
    at = node.clamp(min=0)
    each = at[:, :, None].expand(-1, -1, seen.ids.shape[2])
    # Its share of the accepted path: the first of its nodes at each depth that stands on it.
    place = seen.path.clamp(min=0).long()
    taken = torch.zeros_like(seen.tokens, dtype=torch.bool).scatter_(1, place, seen.path >= 0)
    taken[:, 0] = seen.n_accepted > 0
    mine = taken.gather(1, at) & (node >= 0)
    column = torch.arange(nodes, device=node.device)
    path = torch.full_like(node, nodes)
    path.scatter_reduce_(1, tree.depth.long(), torch.where(mine, column, nodes), "amin")
    reached = (path < nodes).sum(1)
    after = torch.where(seen.path < 0, seen.next_token[:, None], seen.tokens.gather(1, place))
    return seen._replace(
        tokens=draft.tokens,
        tree=tree,
        count=torch.where(seen.count > 0, tree.count, 0),
        ids=seen.ids.gather(1, each),
        values=seen.values.gather(1, each),
        path=path.where(path < nodes, -1).to(torch.int32),
        n_accepted=reached.to(torch.int32),
        next_token=after.gather(1, reached.clamp(max=after.shape[1] - 1)[:, None])[:, 0],
    )
