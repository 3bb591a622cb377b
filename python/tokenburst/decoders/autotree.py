"""Tree size for the device: expected tokens over the measured cost of n rows."""

from collections.abc import Callable
from statistics import median

import numpy as np
from torch import Tensor

from tokenburst.decoders.templates import TreeTemplate

SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 80)  # forwards come in whole groups of four rows
REPEATS = 3

# Chance of each rank to be right before anything is measured; it weighs as this many steps.
PRIOR = (0.5, 0.12, 0.06, 0.04, 0.03, 0.02, 0.015, 0.01)
PRIOR_STEPS = 32.0


class TreeSizer:
    """Chooses the tree for `tree='auto'` and learns acceptance from every generation."""

    def __init__(self) -> None:
        self._tried = np.full(len(PRIOR), PRIOR_STEPS)
        self._accepted = self._tried * PRIOR
        self._cost: dict[tuple[int, int], dict[int, float]] = {}

    def acceptance(self, candidates: int) -> list[float]:
        """Chance by rank that a candidate is right when its parent is; non-increasing."""
        measured = np.full(candidates, 1e-4)
        known = min(candidates, len(PRIOR))
        measured[:known] = (self._accepted / self._tried)[:known]
        return np.minimum.accumulate(measured).clip(1e-4, 0.999).tolist()

    def choose(
        self, candidates: int, key: tuple[int, int], measure: Callable[[TreeTemplate], float]
    ) -> TreeTemplate:
        """The tree with the most expected tokens per second.

        Args:
            candidates: ranks that a node can have.
            key: (batch, context length); costs are measured once per batch and power of two.
            measure: seconds of one forward with a tree.
        """
        batch, context = key
        bucket = batch, context.bit_length()
        acceptance = self.acceptance(candidates)
        trees = [TreeTemplate.from_acceptance(acceptance, nodes) for nodes in SIZES]
        if bucket not in self._cost:
            # To and fro, so that no tree always finds the caches as the largest one left them.
            rounds = [
                [measure(tree) for tree in trees[:: (-1) ** i]][:: (-1) ** i]
                for i in range(REPEATS + 1)
            ]
            columns = zip(*rounds[1:], strict=True)  # the first round warms up
            self._cost[bucket] = dict(zip(SIZES, map(median, columns), strict=True))
        cost = self._cost[bucket]
        return max(trees, key=lambda tree: tree.expected_tokens(acceptance) / cost[tree.nodes])

    def learn(self, shape: TreeTemplate, path: Tensor) -> None:
        """Counts which ranks were right on accepted paths [R, depth + 1], -1 after their ends."""
        nodes = path.numpy()
        visits = np.bincount(nodes[nodes >= 0], minlength=shape.nodes)
        for node in range(1, shape.nodes):
            rank = shape.rank[node]
            if rank < len(PRIOR):
                self._tried[rank] += visits[shape.parent[node]]
                self._accepted[rank] += visits[node]
