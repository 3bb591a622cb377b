"""Shapes of draft trees, as data."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TreeTemplate:
    """A static tree. Node 0 is the root; node i hangs below `parent[i]` as its candidate `rank[i]`.

    Raises:
        ValueError: parents that are not topological, negative ranks, or two siblings of one rank.
    """

    parent: tuple[int, ...]
    rank: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.parent) != len(self.rank) or not self.parent or self.parent[0] != -1:
            raise ValueError(
                "TreeTemplate: expected parent and rank of equal length with parent[0] = -1, "
                f"got {len(self.parent)} parents and {len(self.rank)} ranks"
            )
        edges = list(zip(self.parent, self.rank, strict=True))[1:]
        for i, (parent, rank) in enumerate(edges, start=1):
            if not 0 <= parent < i or rank < 0:
                raise ValueError(
                    f"TreeTemplate: node {i}: expected 0 <= parent < {i} and rank >= 0, "
                    f"got parent {parent}, rank {rank}"
                )
        if len(set(edges)) != len(edges):
            raise ValueError("TreeTemplate: expected siblings of different ranks, got duplicates")

    @classmethod
    def from_child_counts(cls, counts: Sequence[int]) -> "TreeTemplate":
        """From the number of children of each node in breadth-first order; ranks count from 0."""
        parent, rank = [-1], [0]
        for node, children in enumerate(counts):
            parent += [node] * children
            rank += range(children)
        return cls(tuple(parent), tuple(rank))

    @classmethod
    def chain(cls, length: int) -> "TreeTemplate":
        """One candidate after the other, `length` of them below the root."""
        return cls.from_child_counts([1] * length)

    @classmethod
    def from_acceptance(cls, acceptance: Sequence[float], nodes: int) -> "TreeTemplate":
        """The tree of `nodes` nodes (root included) with the most expected accepted tokens.

        `acceptance[r]` is the chance that the candidate of rank r is the right one when its parent
        is; a node's value is the product along its path, so taking the best open node first is
        optimal (Chen et al., Sequoia, arXiv 2402.12374, section 3.1, without a bound on depth).
        """
        if nodes < 1 or not acceptance:
            raise ValueError(f"from_acceptance: expected nodes >= 1 and acceptances, got {nodes}")
        parent, rank = [-1], [0]
        open_nodes = [(-value, 0, r) for r, value in enumerate(acceptance)]
        heapq.heapify(open_nodes)
        while len(parent) < nodes:
            negative, above, r = heapq.heappop(open_nodes)
            node = len(parent)
            parent.append(above)
            rank.append(r)
            for child, value in enumerate(acceptance):
                heapq.heappush(open_nodes, (negative * value, node, child))
        return cls(tuple(parent), tuple(rank))

    @cached_property
    def depth(self) -> tuple[int, ...]:
        """Depth of each node, 0 at the root."""
        depth = [0]
        for parent in self.parent[1:]:
            depth.append(depth[parent] + 1)
        return tuple(depth)

    @cached_property
    def deepest(self) -> int:
        """Depth of the deepest node."""
        return max(self.depth)

    @property
    def nodes(self) -> int:
        """Number of nodes, root included."""
        return len(self.parent)

    @property
    def width(self) -> int:
        """Candidates per node that the tree draws on."""
        return max(self.rank) + 1

    def expected_tokens(self, acceptance: Sequence[float]) -> float:
        """Tokens per forward when candidates of rank r are right with chance `acceptance[r]`."""
        value = [1.0]
        for parent, rank in zip(self.parent[1:], self.rank[1:], strict=True):
            value.append(value[parent] * acceptance[rank])
        return sum(value)


# Luo et al., Token Recycling, arXiv 2408.08696: the published tree of 80 candidates, 6 levels deep.
_RECYCLING_222 = (
    (8,),
    (8, 4, 3, 2, 1, 1, 1, 1),
    (8, 3, 2, 1, 1, 1, 1, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0),
    (5, 2, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0),
    (3, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0),
    (2, 0, 0, 1, 0, 0, 0, 0),
)

TEMPLATES: dict[str, TreeTemplate] = {
    "2.2.2": TreeTemplate.from_child_counts([count for level in _RECYCLING_222 for count in level]),
    "4x2x1": TreeTemplate.from_child_counts([4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
    "chain-4": TreeTemplate.chain(4),
    "chain-8": TreeTemplate.chain(8),
}


def template(name: "str | TreeTemplate") -> TreeTemplate:
    """A template by name, or the given one; ValueError lists the names."""
    if isinstance(name, TreeTemplate):
        return name
    if name not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise ValueError(f"tree: expected 'auto', a TreeTemplate or one of {known}, got {name!r}")
    return TEMPLATES[name]
