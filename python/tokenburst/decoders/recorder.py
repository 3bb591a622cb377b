"""Which places of a tree prove worth their rows: acceptance by node, measured while decoding."""

import torch
from torch import Tensor

from tokenburst.decoders.around import Around
from tokenburst.decoders.drafting import Draft, Drafter, DraftState, Observation
from tokenburst.decoders.templates import TreeTemplate


class AcceptanceRecorder(Around):
    """Drafts as another drafter does and counts how often each node of its tree is accepted.

    Decode some text with a large tree, then take the `best` nodes of it (STAND's data-driven tree),
    or the acceptance `by_rank` for a Sequoia tree.

    Args:
        drafter: one whose tree is the same in every step.
    """

    def __init__(self, drafter: Drafter) -> None:
        super().__init__(drafter)
        self.accepted: Tensor | None = None  # [N] int64: how often each node was on the path
        self.by_depth: Tensor | None = None  # [depth + 1] int64: paths that reached a depth
        self._template: TreeTemplate | None = None

    def draft(self, state: DraftState) -> Draft:
        """As the drafter's."""
        draft, device = super().draft(state), state.root.device
        self._template = draft.tree.template
        if self.accepted is None or len(self.accepted) != draft.tree.nodes:
            self.accepted = torch.zeros(draft.tree.nodes, dtype=torch.int64, device=device)
            depths = self.most_depth + 1
            self.by_depth = torch.zeros(depths, dtype=torch.int64, device=device)
        return draft

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Counts, then as the drafter's."""
        if self._drafted and self.accepted is not None and self.by_depth is not None:
            on_path = seen.path >= 0
            nodes = seen.path.clamp(min=0).long().flatten()
            self.accepted.scatter_add_(0, nodes, on_path.flatten().long())
            reached = on_path.sum(0)[: len(self.by_depth)]
            self.by_depth[: len(reached)] += reached
        super().observe(state, seen)

    def acceptance_by_depth(self) -> list[float]:
        """Share of steps whose path reached depth 1, 2, ..."""
        if self.by_depth is None or int(self.by_depth[0]) == 0:
            return []
        return (self.by_depth[1:] / self.by_depth[0]).tolist()

    def by_rank(self) -> list[float]:
        """Chance by rank that a candidate is accepted when its parent is, over all nodes."""
        shape, counts = self._counted()
        tried, right = [0] * shape.width, [0] * shape.width
        for node in range(1, shape.nodes):
            tried[shape.rank[node]] += counts[shape.parent[node]]
            right[shape.rank[node]] += counts[node]
        return [r / t if t else 0.0 for r, t in zip(right, tried, strict=True)]

    def best(self, nodes: int) -> TreeTemplate:
        """The `nodes` nodes accepted most often, root included, breadth first.

        Source: Song et al., STAND, arXiv 2506.04708 (625 nodes, of which 80 are kept).
        """
        if nodes < 1:
            raise ValueError(f"AcceptanceRecorder: nodes: expected >= 1, got {nodes}")
        shape, counts = self._counted()
        # A node is accepted no more often than its parent, so the best ones hang together.
        order = sorted(range(shape.nodes), key=lambda i: (-counts[i], shape.depth[i], i))[:nodes]
        kept = sorted(order, key=lambda i: (shape.depth[i], i))
        place = {node: i for i, node in enumerate(kept)}
        parent, rank = [-1], [0]
        taken: dict[int, int] = {}
        for node in kept[1:]:
            above = place[shape.parent[node]]
            parent.append(above)
            rank.append(taken.get(above, 0))
            taken[above] = rank[-1] + 1
        return TreeTemplate(tuple(parent), tuple(rank))

    def _counted(self) -> tuple[TreeTemplate, list[int]]:
        if self.accepted is None or self._template is None:
            raise ValueError("AcceptanceRecorder: expected steps with a static tree, got none")
        return self._template, self.accepted.tolist()
