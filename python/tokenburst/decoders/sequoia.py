"""The best tree for a measured acceptance, a number of nodes and a depth (Sequoia)."""

from collections.abc import Callable, Sequence

import numpy as np

from tokenburst.decoders.templates import TreeTemplate


class SequoiaTable:
    """Best expected tokens per forward, for every size up to `nodes` and depth up to `depth`.

    A tree of m nodes whose root has b children is one with b - 1 children and fewer nodes, and one
    more subtree below rank b - 1: its expected tokens are those of the two, the second weighed with
    the chance that the candidate of this rank is the right one.

    Args:
        acceptance: chance by rank that a candidate is right when its parent is; any order.
        nodes: of the largest tree, root included.
        depth: edges from the root to the deepest node at most; None = no bound.

    Raises:
        ValueError: no acceptances, one outside 0 .. 1, nodes < 1 or depth < 0.

    Source: Chen et al., Sequoia, arXiv 2402.12374, section 3.1.
    """

    def __init__(self, acceptance: Sequence[float], nodes: int, depth: int | None = None) -> None:
        chance = [float(p) for p in acceptance]
        if not chance or not all(0 <= p <= 1 for p in chance):
            raise ValueError(f"sequoia: acceptance: expected chances in 0..1, got {chance}")
        depth = nodes - 1 if depth is None else min(depth, nodes - 1)
        if nodes < 1 or depth < 0:
            raise ValueError(f"sequoia: expected nodes >= 1 and depth >= 0, got {nodes}, {depth}")
        self.nodes, self.depth = nodes, depth
        ranks = len(chance)
        # value[l, b, m]: m nodes, at most l deep, exactly b children at the root.
        value = np.full((depth + 1, ranks + 1, nodes + 1), -np.inf)
        value[:, 0, 1] = 1.0
        # best[l, m] over b, and the b; split[l, b, m]: nodes of the tree without the last child.
        self._best = np.full((depth + 1, nodes + 1), -np.inf)
        self._children = np.zeros((depth + 1, nodes + 1), dtype=np.int64)
        self._split = np.zeros((depth + 1, ranks + 1, nodes + 1), dtype=np.int64)
        for level in range(depth + 1):
            if level:
                for b, p in enumerate(chance, start=1):
                    for m in range(b + 1, nodes + 1):
                        # y nodes without the last child, m - y below it.
                        with_last = (
                            value[level, b - 1, 1:m] + p * self._best[level - 1, m - 1 : 0 : -1]
                        )
                        y = int(with_last.argmax()) + 1
                        value[level, b, m] = with_last[y - 1]
                        self._split[level, b, m] = y
            self._best[level] = value[level].max(0)
            self._children[level] = value[level].argmax(0)

    def expected_tokens(self, nodes: int, depth: int | None = None) -> float:
        """Of the best tree of exactly `nodes` nodes; -inf where there is none."""
        return float(self._best[self._level(depth), nodes])

    def tree(self, nodes: int | None = None, depth: int | None = None) -> TreeTemplate:
        """The best tree, breadth first; ValueError where no tree of `nodes` nodes is so flat."""
        nodes = self.nodes if nodes is None else nodes
        level = self._level(depth)
        if not np.isfinite(self._best[level, nodes]):
            raise ValueError(
                f"sequoia: nodes: expected a tree of {nodes} nodes within depth {level} and "
                f"{self._split.shape[1] - 1} ranks, got none"
            )
        parent, rank = [-1], [0]
        open_nodes = [(0, level, nodes)]
        for node, limit, size in open_nodes:  # grows while it is read
            sizes = []
            left = size
            for b in range(int(self._children[limit, size]), 0, -1):
                without = int(self._split[limit, b, left])
                sizes.append(left - without)
                left = without
            for r, below in enumerate(reversed(sizes)):
                open_nodes.append((len(parent), limit - 1, below))
                parent.append(node)
                rank.append(r)
        return TreeTemplate(tuple(parent), tuple(rank))

    def fastest(self, seconds: Callable[[int, int], float]) -> TreeTemplate:
        """The tree with the most expected tokens per second, `seconds(nodes, depth)` of a step."""
        sizes = [
            (self._best[level, m] / seconds(m, level), -m, -level)
            for level in range(self.depth + 1)
            for m in range(1, self.nodes + 1)
            if np.isfinite(self._best[level, m])
        ]
        _, m, level = max(sizes)
        return self.tree(-m, -level)

    def _level(self, depth: int | None) -> int:
        return self.depth if depth is None else min(depth, self.depth)


def sequoia_tree(acceptance: Sequence[float], nodes: int, depth: int | None = None) -> TreeTemplate:
    """The tree of `nodes` nodes, at most `depth` deep, with the most expected tokens per forward.

    For acceptances that fall with the rank and no bound on the depth this is
    `TreeTemplate.from_acceptance`, found the longer way. See `SequoiaTable` for the arguments.
    """
    return SequoiaTable(acceptance, nodes, depth).tree()
