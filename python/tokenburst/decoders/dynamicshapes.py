"""Trees of a draft model whose shape follows what is drawn."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import DeviceTree, DraftState
from tokenburst.decoders.drawing import Drawer
from tokenburst.decoders.shapes import FIRST_ROW, ROOT_ROW, DraftShape, DrawnTree


def _positive(what: str, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{what}: {name}: expected >= 1, got {value}")


class Independent(DraftShape):
    """k continuations of the text, each drawn on its own (SpecTr, SpecInfer).

    Continuations that begin alike share nodes, but every one of them remains an attempt.

    Args:
        k: continuations.
        length: tokens of each.
        verification: 'kseq' (SpecTr) or 'rrs_wr' (SpecInfer's multi-step sampling).

    Source: Sun et al., SpecTr, arXiv 2310.15141; Miao et al., SpecInfer, arXiv 2305.09781.
    """

    def __init__(self, k: int, length: int, verification: str = "kseq") -> None:
        _positive("Independent", k=k, length=length)
        if verification not in ("kseq", "rrs_wr"):
            raise ValueError(
                f"Independent: verification: expected 'kseq' or 'rrs_wr', got {verification!r}"
            )
        self.k, self.length, self.verification = k, length, verification

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """Independent draws; without their repeats they are draws without replacement."""
        return ("walk", "rrs", "rrs_wr", "kseq")

    @property
    def most_nodes(self) -> int:
        return 1 + self.k * self.length

    @property
    def most_depth(self) -> int:
        return self.length

    @property
    def most_rows(self) -> int:
        return self.k * (self.length - 1)

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing to prepare but indices."""
        self._count = torch.full((batch,), self.most_nodes, dtype=torch.int32, device=device)
        self._slot = torch.arange(self.k, device=device)

    def draw(self, drawer: Drawer, state: DraftState) -> DrawnTree:
        """All continuations by one token at a time."""
        batch, k, slot = len(state.root), self.k, self._slot
        drawer.root()
        # Greedy: the k best first tokens, each with its best continuation.
        drawn = drawer.draw(k, replacement=not state.greedy).ids[:, 0]
        drawn = torch.nn.functional.pad(drawn, (0, k - drawn.shape[1]), value=-1)
        above = torch.zeros(batch, k, dtype=torch.int64, device=slot.device)  # the parents' nodes
        tokens, parents = [state.root[:, None]], [torch.full_like(above[:, :1], -1)]
        draws, rows = [torch.full_like(above[:, :1], -1)], [torch.full_like(above[:, :1], -1)]
        for level in range(self.length):
            # The first continuation with this beginning has the node, the others share it.
            same = (above[:, :, None] == above[:, None]) & (drawn[:, :, None] == drawn[:, None])
            first = torch.where(same, slot, k).amin(2)
            node = 1 + level * k + first
            tokens.append(torch.where(first == slot, drawn, -1))
            parents.append(above)
            draws.append(torch.where(drawn >= 0, node, -1))
            # Row 0 is the root's distribution, then k per level.
            rows.append(above)
            if level + 1 < self.length:
                kv = torch.where(above > 0, FIRST_ROW - 1 + above, ROOT_ROW)
                drawer.level(drawn, kv, level + 1)
                drawn = torch.where(drawn >= 0, drawer.draw(1).ids[:, :, 0], -1)
            above = node
        tree = DeviceTree.from_parents(torch.cat(parents, 1).to(torch.int32), self._count)
        column = torch.arange(tree.nodes, device=slot.device).expand(batch, -1)
        return DrawnTree(
            torch.cat(tokens, 1),
            tree,
            torch.cat(rows, 1).to(torch.int32),
            torch.where(column > 0, FIRST_ROW - 1 + column, ROOT_ROW),
            torch.cat(draws, 1).to(torch.int32),
        )

    def keep(self, rows: Tensor) -> None:
        """Fewer rows."""
        self._count = self._count[rows]


class StochasticBeam(DraftShape):
    """The `width` best of all continuations of each length by perturbed log probability (RSD-S).

    Source: Jeon et al., Recursive Speculative Decoding, arXiv 2402.14160; Kool et al., Stochastic
        Beams and Where to Find Them, arXiv 1903.06059.
    """

    def __init__(self, width: int, depth: int) -> None:
        _positive("StochasticBeam", width=width, depth=depth)
        self.width, self.depth = width, depth

    @property
    def most_nodes(self) -> int:
        return 1 + self.width * self.depth

    @property
    def most_depth(self) -> int:
        return self.depth

    @property
    def most_rows(self) -> int:
        return self.width * (self.depth - 1)

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing to prepare but the number of nodes."""
        self._count = torch.full((batch,), self.most_nodes, dtype=torch.int32, device=device)

    def draw(self, drawer: Drawer, state: DraftState) -> DrawnTree:
        """Level by level; the beam is in descending order, so siblings stand in draw order."""
        batch, width, device = len(state.root), self.width, state.root.device
        g = torch.zeros(batch, 1, dtype=torch.float32, device=device)
        phi, node = torch.zeros_like(g), torch.zeros(batch, 1, dtype=torch.int64, device=device)
        tokens, parents = [state.root[:, None]], [node - 1]
        drawer.root()
        for level in range(self.depth):
            drawn = drawer.draw(width, parent_g=g, parent_phi=phi)
            per_node = drawn.ids.shape[2]
            candidates = drawn.g.flatten(1).masked_fill(drawn.ids.flatten(1) < 0, -torch.inf)
            missing = width - candidates.shape[1]
            if missing > 0:
                candidates = torch.nn.functional.pad(candidates, (0, missing), value=-torch.inf)
            g, best = candidates.sort(dim=1, descending=True, stable=True)
            g, best = g[:, :width], best[:, :width]
            lost = g == -torch.inf
            best = best.masked_fill(lost, 0)
            beam = best // per_node
            token = drawn.ids.flatten(1).gather(1, best).masked_fill(lost, -1)
            phi = phi.gather(1, beam) + drawn.log_q.flatten(1).gather(1, best)
            phi = phi.masked_fill(lost, 0.0)
            above = node.gather(1, beam)
            tokens.append(token)
            parents.append(above)
            if level + 1 < self.depth:
                drawer.level(
                    token, torch.where(above > 0, FIRST_ROW - 1 + above, ROOT_ROW), level + 1
                )
            node = torch.arange(1 + level * width, 1 + (level + 1) * width, device=device)
            node = node.expand(batch, -1)
        parent = torch.cat(parents, 1)
        tree = DeviceTree.from_parents(parent.to(torch.int32), self._count)
        column = torch.arange(tree.nodes, device=device).expand(batch, -1)
        kv_row = torch.where(column > 0, FIRST_ROW - 1 + column, ROOT_ROW)
        # Distributions: the root's, then one per node in order, which is the order of reading.
        return DrawnTree(torch.cat(tokens, 1), tree, parent.to(torch.int32), kv_row)

    def keep(self, rows: Tensor) -> None:
        """Fewer rows."""
        self._count = self._count[rows]
