"""DySpec: the tree grows where the draft model expects acceptance."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import DeviceTree, DraftState
from tokenburst.decoders.drawing import Drawer
from tokenburst.decoders.dynamicshapes import _positive
from tokenburst.decoders.shapes import FIRST_ROW, ROOT_ROW, DraftShape, DrawnTree


class DySpec(DraftShape):
    """The `budget` nodes with the largest estimated chance of being reached and tried.

    The published heap pops the best open place, draws a token there and opens two places: the next
    sibling's, worth what is left of the draft mass, and the first child's. The value of a place,
    path(u) (1 - sum of q over the earlier siblings), does not depend on what is drawn there or
    later, so the heap's tree is the `budget` most valuable places of the tree of all draws, and
    those are found level by level, one batched forward each, without a heap and without the host.
    A node's existence does not depend on its own token, which is what keeps verification exact.

    Args:
        budget: nodes below the root.
        depth: edges from the root to the deepest node at most; a draft forward each.
        width: nodes of one depth that the draft model reads, those with the largest path
            probability. Bounds on depth, width and siblings cost acceptance, never exactness.
        siblings: candidates per node at most.
        threshold: places worth less are left out, as in the published layer-by-layer variant.

    Source: Xiong et al., DySpec, arXiv 2410.11744, algorithms 1 and 2.
    """

    def __init__(
        self,
        budget: int,
        depth: int = 6,
        width: int = 8,
        siblings: int = 4,
        threshold: float = 0.0,
    ) -> None:
        _positive("DySpec", budget=budget, depth=depth, width=width, siblings=siblings)
        if not 0 <= threshold < 1:
            raise ValueError(f"DySpec: threshold: expected 0 <= threshold < 1, got {threshold}")
        self.depth, self.width, self.siblings = depth, width, siblings
        self.threshold = threshold
        self.budget = min(budget, siblings * (1 + width * (depth - 1)))

    @property
    def most_nodes(self) -> int:
        return 1 + self.budget

    @property
    def most_depth(self) -> int:
        return self.depth

    @property
    def most_rows(self) -> int:
        return self.width * (self.depth - 1)

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing to prepare."""

    def draw(self, drawer: Drawer, state: DraftState) -> DrawnTree:
        """Draws a wider tree level by level and keeps its most valuable places."""
        batch, device = len(state.root), state.root.device
        path = torch.ones(batch, 1, dtype=torch.float32, device=device)
        # Candidates are numbered in the order of levels, nodes and draws, from 1; 0 is the root.
        above = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        row = torch.full_like(above, ROOT_ROW)
        ids, values, parents, rows, read = [], [], [], [], []
        seen, next_row = 1, FIRST_ROW
        drawer.root()
        for depth in range(1, self.depth + 1):
            drawn = drawer.draw(self.siblings)
            n, k = drawn.ids.shape[1:]
            q = drawn.log_q.exp()
            value = path[:, :, None] * (1.0 - (q.cumsum(2) - q)).clamp(min=0)
            # min: rounding must not put a child before its own parent.
            reach = torch.minimum(path[:, :, None] * q, value)
            if state.greedy:  # nothing is drawn: how probable a candidate is may decide about it
                value = reach
            none = (drawn.ids < 0) | (path[:, :, None] <= 0)
            value, reach = (t.masked_fill(none, 0.0).flatten(1) for t in (value, reach))
            ids.append(drawn.ids.flatten(1))
            values.append(value)
            parents.append(above.repeat_interleave(k, 1))
            rows.append(row.repeat_interleave(k, 1))
            read.append(torch.full_like(ids[-1], ROOT_ROW))
            if depth == self.depth:
                break
            path, order = reach.sort(dim=1, descending=True, stable=True)
            path, order = path[:, : self.width], order[:, : self.width]
            above, wide = seen + order, order.shape[1]
            drawer.level(ids[-1].gather(1, order), row.gather(1, order // k), depth)
            row = torch.arange(next_row, next_row + wide, device=device).expand(batch, -1)
            read[-1] = read[-1].scatter(1, order, row)
            seen, next_row = seen + n * k, next_row + wide
        return self._most_valuable(
            state, *(torch.cat(t, 1) for t in (ids, values, parents, rows, read))
        )

    def _most_valuable(
        self,
        state: DraftState,
        ids: Tensor,
        value: Tensor,
        parent: Tensor,
        row: Tensor,
        read: Tensor,
    ) -> DrawnTree:
        """The tree of the `budget` candidates [B, C] of the largest value, in their order."""
        batch, count = value.shape
        size = min(self.budget, count)
        value, best = value.sort(dim=1, descending=True, stable=True)
        value, best = value[:, :size], best[:, :size]
        kept = (value > 0) & (value >= self.threshold)
        # In the order of candidates, which is topological; what is not kept comes last.
        best, by_place = torch.where(kept, best, count).sort(dim=1, stable=True)
        kept = kept.gather(1, by_place)
        best = best.clamp(max=count - 1)
        node = torch.zeros(batch, count + 1, dtype=torch.int64, device=ids.device)
        place = torch.arange(1, size + 1, device=ids.device).expand(batch, -1)
        node.scatter_(1, torch.where(kept, best + 1, 0), torch.where(kept, place, 0))
        node[:, 0] = 0
        above = node.gather(1, parent.gather(1, best)).masked_fill(~kept, 0)

        def with_root(nodes: Tensor, root: Tensor | int) -> Tensor:
            first = torch.full_like(nodes[:, :1], root) if isinstance(root, int) else root[:, None]
            return torch.cat([first, nodes], 1)

        tokens = with_root(ids.gather(1, best).masked_fill(~kept, -1), state.root)
        real = 1 + kept.sum(1, dtype=torch.int32)
        tree = DeviceTree.from_parents(with_root(above, -1).to(torch.int32), real)
        kv_row = with_root(read.gather(1, best), ROOT_ROW)
        kv_row = torch.nn.functional.pad(kv_row, (0, tree.nodes - kv_row.shape[1]))
        # Distributions stand in the order of reading, the root's in row 1 of the reader first.
        q_row = with_root(row.gather(1, best) - ROOT_ROW, -1)
        return DrawnTree(tokens, tree, q_row.to(torch.int32), kv_row)

    def keep(self, rows: Tensor) -> None:
        """Nothing is kept from step to step."""
