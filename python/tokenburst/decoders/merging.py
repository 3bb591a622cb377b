"""Several drafters whose guesses become one tree."""

import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenburst import ops
from tokenburst.decoders.drafting import (
    ChooseTree,
    DeviceTree,
    Draft,
    Drafter,
    DraftState,
    Observation,
)
from tokenburst.decoders.mergedtree import Layout, Part, distribution, seen_by

# A drafter's seed is a step of this generator from that of the merged ones, so that nested ones
# differ, too.
_STREAM = 6364136223846793005


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
        self._parts: list[Part] | None = None
        self._layout: Layout | None = None
        for drafter, view in self._views(state):
            drafter.begin(view, choose_tree)

    def _views(self, state: DraftState) -> Iterator[tuple[Drafter, DraftState]]:
        """Each drafter, and the state with random numbers of its own: no two draw alike."""
        shared = max(state.shared, self.most_depth + 1)
        for i, drafter in enumerate(self.drafters):
            rng = state.rng
            if not state.greedy:
                rng = rng.clone()
                rng[:, 0].mul_(_STREAM).add_(i + 1)
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
        trees = [draft.tree for draft in drafts]
        if self._layout is None or any(map(operator.is_not, trees, self._layout.trees)):
            self._layout = Layout.of(trees, [d.most_nodes for d in self.drafters])
        layout = self._layout
        tokens = torch.cat([drafts[0].tokens, *(draft.tokens[:, 1:] for draft in drafts[1:])], 1)
        tokens = tokens.index_select(1, layout.taken).where(layout.real, -1)
        merged = ops.tree_merge(tokens, layout.parents)
        node = pad(merged.node, (0, 1), value=-1).long()
        self._parts = [
            Part(draft, node.index_select(1, columns))
            for draft, columns in zip(drafts, layout.columns, strict=True)
        ]
        tree = DeviceTree.from_parents(merged.parent, layout.count)
        drawn = self.draws is not None and not state.greedy
        return Draft(merged.tokens, tree, distribution(self._parts) if drawn else None)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Each drafter sees its own tree; a piece of the prompt is shown to those who want it."""
        for i, drafter in enumerate(self.drafters):
            if type(drafter).observe is Drafter.observe:
                continue
            k = drafter.candidates
            mine = seen._replace(ids=seen.ids[:, :, :k], values=seen.values[:, :, :k])
            if self._parts is not None:
                drafter.observe(state, seen_by(self._parts[i], mine, drafter.watches_path))
            elif drafter.prefill:
                drafter.observe(state, mine)

    def keep(self, rows: Tensor) -> None:
        """As the drafters'."""
        for drafter in self.drafters:
            drafter.keep(rows)
