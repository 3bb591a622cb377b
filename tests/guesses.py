"""Drafters that know nothing: they guess at random, and the text must not show it."""

import torch

from tokenburst import ops
from tokenburst.decoders.drafting import DeviceTree, Draft, DraftDistribution, Drafter


class RandomDrafter(Drafter):
    """Other trees and tokens in every step and row, duplicates and missing tokens among them."""

    candidates = 3
    prefill = True

    def __init__(self, nodes, vocab, seed=0):
        self.nodes, self.vocab, self.seed = nodes, vocab, seed

    @property
    def most_nodes(self):
        return self.nodes

    @property
    def most_depth(self):
        return self.nodes - 1

    def begin(self, state, choose_tree):
        self.g = torch.Generator().manual_seed(self.seed)
        self.seen = []

    def draft(self, state):
        shape = len(state.root), self.nodes
        above = torch.rand(shape, generator=self.g) * torch.arange(self.nodes)
        parents = above.to(torch.int32)
        parents[:, 0] = -1
        tokens = torch.randint(-1, self.vocab, shape, generator=self.g)
        tokens[:, 0] = state.root
        count = torch.randint(1, self.nodes + 1, shape[:1], generator=self.g)
        return Draft(tokens, DeviceTree.from_parents(parents, count.to(torch.int32)))

    def observe(self, state, seen):
        assert seen.ids.shape == (*seen.tokens.shape, self.candidates)
        self.seen.append(int(seen.count.sum()))

    def keep(self, rows):
        assert rows.dtype == torch.int64


class TableDrafter(Drafter):
    """Draws from a fixed distribution after each token.

    `widths[d]` candidates below each node of depth d, drawn without replacement, or with it.
    """

    def __init__(self, logits, widths, verification, replacement=False):
        self.logits, self.widths = logits, widths
        self.verification, self.replacement = verification, replacement
        self.levels, parents = [[0]], [-1]
        for width in widths:
            below = []
            for node in self.levels[-1]:
                below += range(len(parents), len(parents) + width)
                parents += [node] * width
            self.levels.append(below)
        self.parents = torch.tensor(parents, dtype=torch.int32)

    @property
    def most_nodes(self):
        return len(self.parents)

    @property
    def most_depth(self):
        return len(self.widths)

    def begin(self, state, choose_tree):
        self.rows(len(state.root))

    def rows(self, batch):
        self.above = [torch.tensor(level).repeat(batch) for level in self.levels]
        count = torch.full((batch,), self.most_nodes, dtype=torch.int32)
        self.tree = DeviceTree.from_parents(self.parents.expand(batch, -1), count)

    def draft(self, state):
        batch = len(state.root)
        tokens = state.root.new_zeros(batch, self.most_nodes)
        tokens[:, 0] = state.root
        begin = 0
        for depth, width in enumerate(self.widths):
            nodes = len(self.levels[depth])
            level = slice(begin, begin + nodes)
            begin += nodes
            rng = state.rng.repeat_interleave(nodes, 0)
            drawn = ops.vocab_sample(
                self.logits,
                width,
                torch.ones(len(rng)),
                torch.cat([rng, self.above[depth][:, None]], 1),
                rows=tokens[:, level].flatten(),
                replacement=self.replacement,
            )
            tokens[:, begin : begin + nodes * width] = drawn.ids.view(batch, -1)
        return Draft(tokens, self.tree, DraftDistribution(logits=self.logits[tokens]))

    def keep(self, rows):
        self.rows(len(rows))
