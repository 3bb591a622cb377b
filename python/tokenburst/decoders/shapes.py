"""Trees of a draft model whose shape is the same in every step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokenburst.decoders.drafting import LOSSLESS, DeviceTree, DraftState
from tokenburst.decoders.drawing import Drawer
from tokenburst.decoders.templates import TreeTemplate


class DrawnTree(NamedTuple):
    """A tree drawn from a draft model."""

    tokens: Tensor  # [B, N] int64, -1 = none
    tree: DeviceTree
    row: Tensor  # [B, M] int32: which distribution draw m came from
    kv_row: Tensor  # [B, N] int64: the reader's row of each node; of leaves anything
    draws: Tensor | None = None  # [B, M] int32: node of draw m, -1 = none; absent: draw i is node i


class DraftShape(ABC):
    """How a draft model's distributions become a tree.

    Attributes:
        verification: the verifying mode that is exact for its draws.
    """

    verification: str = "rrs"

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """Modes that are exact for its draws; a chain, one draw per node, suits all."""
        return LOSSLESS if self.most_nodes == 1 + self.most_depth else ("walk", self.verification)

    @property
    @abstractmethod
    def most_nodes(self) -> int:
        """Nodes of the tree, root included."""

    @property
    @abstractmethod
    def most_depth(self) -> int:
        """Depth of the deepest node."""

    @property
    @abstractmethod
    def most_rows(self) -> int:
        """Nodes below the root that the draft model reads."""

    @abstractmethod
    def begin(self, batch: int, device: torch.device) -> None:
        """A batch starts."""

    @abstractmethod
    def draw(self, drawer: Drawer, state: DraftState) -> DrawnTree:
        """One tree for each row."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Finished rows leave."""


# The reader's rows begin with the token before the root and the root.
ROOT_ROW, FIRST_ROW = 1, 2


class _Level(NamedTuple):
    """Constant tensors of one depth of a template."""

    width: int  # candidates to draw after each node that is read
    children: Tensor  # nodes that are drawn
    pick: Tensor  # each one's place among the drawn candidates
    parents: Tensor  # their parents
    inner: Tensor  # those of them that have children, which are read next
    inner_rows: Tensor  # [1, n] reader's rows of the parents of `inner`


class StaticTree(DraftShape):
    """Draws the candidates of each node of a template without replacement (RSD-C).

    A node of rank r is the draw r after its parent. Chains, fixed branching factors and trees from
    measured acceptance (Sequoia) are such templates.

    Args:
        shape: the template.

    Source: Jeon et al., Recursive Speculative Decoding, arXiv 2402.14160; Chen et al., Sequoia,
        arXiv 2402.12374.
    """

    def __init__(self, shape: TreeTemplate) -> None:
        self.shape = shape
        # Breadth first, so that the order of nodes is the order of reading.
        order = sorted(range(shape.nodes), key=lambda i: shape.depth[i])
        place = {node: i for i, node in enumerate(order)}
        self._parent = [-1] + [place[shape.parent[i]] for i in order[1:]]
        self._rank = [shape.rank[i] for i in order]
        self._depth = [shape.depth[i] for i in order]
        inner = sorted(set(self._parent[1:]))
        self._read = {node: i for i, node in enumerate(inner)}  # root first

    @property
    def most_nodes(self) -> int:
        return self.shape.nodes

    @property
    def most_depth(self) -> int:
        return self._depth[-1]

    @property
    def most_rows(self) -> int:
        return max(0, len(self._read) - 1)

    def begin(self, batch: int, device: torch.device) -> None:
        """Makes the tree and the indices of its levels."""

        def constant(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        template = TreeTemplate(tuple(self._parent), tuple(self._rank))
        self._tree = DeviceTree.from_template(template, batch, device)
        pad = [0] * (self._tree.nodes - template.nodes)
        # Rows of the reader: the root has row 1, which nodes are read after it follow.
        kv = [ROOT_ROW + self._read.get(i, 0) for i in range(template.nodes)] + pad
        row = [-1] + [self._read[p] for p in self._parent[1:]] + [-1 for _ in pad]
        self._kv_row = constant(kv).expand(batch, -1)
        self._row = constant(row).to(torch.int32).expand(batch, -1)
        self._levels = []
        for depth in range(1, self.most_depth + 1):
            children = [i for i, d in enumerate(self._depth) if d == depth]
            above = sorted({self._parent[i] for i in children})
            width = 1 + max(self._rank[i] for i in children)
            pick = [above.index(self._parent[i]) * width + self._rank[i] for i in children]
            inner = [i for i in children if i in self._read]
            self._levels.append(
                _Level(
                    width,
                    constant(children),
                    constant(pick),
                    constant([self._parent[i] for i in children]),
                    constant(inner),
                    constant([kv[self._parent[i]] for i in inner])[None],
                )
            )

    def draw(self, drawer: Drawer, state: DraftState) -> DrawnTree:
        """Level by level."""
        tokens = torch.full_like(self._kv_row, -1)
        tokens[:, 0] = state.root
        drawer.root()
        for depth, level in enumerate(self._levels, start=1):
            ids = drawer.draw(level.width).ids
            if ids.shape[2] < level.width:  # a vocabulary smaller than that
                ids = torch.nn.functional.pad(ids, (0, level.width - ids.shape[2]), value=-1)
            drawn = ids.flatten(1)[:, level.pick]
            known = tokens[:, level.parents] >= 0
            tokens[:, level.children] = torch.where(known, drawn, -1)
            if len(level.inner):
                rows = level.inner_rows.expand(len(tokens), -1)
                drawer.level(tokens[:, level.inner], rows, depth)
        return DrawnTree(tokens, self._tree, self._row, self._kv_row)

    def keep(self, rows: Tensor) -> None:
        """The same tree for fewer rows."""
        self._tree = self._tree.keep(rows)
        self._kv_row, self._row = self._kv_row[rows], self._row[rows]


class Chain(StaticTree):
    """One candidate after the other, `length` of them.

    Source: Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv
        2211.17192.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"Chain: length: expected >= 1, got {length}")
        super().__init__(TreeTemplate.chain(length))


class Branching(StaticTree):
    """factors[0] candidates below the root, factors[1] below each of them, and so on (RSD-C)."""

    def __init__(self, factors: Sequence[int]) -> None:
        if not factors or min(factors) < 1:
            raise ValueError(f"Branching: factors: expected numbers >= 1, got {list(factors)}")
        counts, width = [], 1
        for factor in factors:
            counts += [factor] * width
            width *= factor
        super().__init__(TreeTemplate.from_child_counts(counts))
