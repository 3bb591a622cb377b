"""Token Recycling (Luo et al., arXiv 2408.08696): draft what the target ranked high before."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.autotree import SIZES
from tokenburst.decoders.drafting import (
    ChooseTree,
    DeviceTree,
    Draft,
    Drafter,
    DraftState,
    Observation,
)
from tokenburst.decoders.templates import TreeTemplate, template


class TokenRecycling(Drafter):
    """An adjacency matrix of recycled candidates, kept over requests.

    Row t holds the target's latest top candidates after token t. Drafting follows the tree from the
    last token through the matrix; every scored node, accepted or not, writes its row back.

    Args:
        tree: 'auto' (sized for the device by the decoder), a template name such as '2.2.2', or a
            `TreeTemplate`.
        candidates: K, entries per row.
        prefill: also learn from the prompt's own logits, at the cost of the output head on all its
            rows.
        groups: matrices, where texts of several kinds are decoded: `choose` says which one each
            row of a batch reads and writes.

    Raises:
        ValueError: numbers out of range, an unknown tree.
    """

    watches_path = False

    def __init__(
        self,
        tree: str | TreeTemplate = "auto",
        *,
        candidates: int = 8,
        prefill: bool = True,
        groups: int = 1,
    ) -> None:
        for name, value in (("candidates", candidates), ("groups", groups)):
            if value < 1:
                raise ValueError(f"TokenRecycling: {name}: expected >= 1, got {value}")
        self.tree = tree if tree == "auto" else template(tree)
        if isinstance(self.tree, TreeTemplate) and self.tree.width > candidates:
            raise ValueError(
                f"TokenRecycling: candidates: expected >= {self.tree.width} for this tree, "
                f"got {candidates}"
            )
        self.candidates = candidates
        self.prefill = prefill
        self.groups = groups
        self.adjacency: Tensor | None = None  # [V, K] or [groups, V, K] int32, -1 = not seen yet
        self._chosen: list[int] | None = None
        self._group: Tensor | None = None  # [B] of the batch, where there are groups

    def choose(self, groups: Sequence[int]) -> None:
        """Matrix of each row of the batches to come, one per row; the first for all by default.

        Raises:
            ValueError: a matrix that does not exist.
        """
        wrong = [g for g in groups if not 0 <= g < self.groups]
        if wrong:
            raise ValueError(
                f"TokenRecycling: groups: expected 0..{self.groups - 1}, got {wrong[0]}"
            )
        self._chosen = list(groups)

    @property
    def most_nodes(self) -> int:
        return self.tree.nodes if isinstance(self.tree, TreeTemplate) else max(SIZES)

    @property
    def most_depth(self) -> int:
        return self.tree.deepest if isinstance(self.tree, TreeTemplate) else max(SIZES) - 1

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """Make the matrix on first use; ValueError if it belongs to another vocabulary."""
        if self.candidates > vocab_size:
            raise ValueError(
                f"TokenRecycling: candidates: expected <= {vocab_size} words of the vocabulary, "
                f"got {self.candidates}"
            )
        if self.adjacency is None:
            shape = (self.groups, vocab_size, self.candidates)[self.groups == 1 :]
            self.adjacency = torch.full(shape, -1, dtype=torch.int32, device=device)
        if self.adjacency.shape[-2] != vocab_size:
            raise ValueError(
                f"TokenRecycling: adjacency: expected {vocab_size} rows for this model, "
                f"got {self.adjacency.shape[-2]}"
            )
        self.adjacency = self.adjacency.to(device)

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """Makes the tree of the batch; ValueError where its rows are not those that were chosen."""
        batch, device = len(state.root), state.root.device
        chosen = self._chosen or [0] * batch
        if len(chosen) != batch:
            raise ValueError(
                f"TokenRecycling: groups: expected one for each of {batch} rows, got {len(chosen)}"
            )
        if self.groups > 1:
            self._group = torch.tensor(chosen, dtype=torch.int32, device=device)
        shape = self.tree
        if not isinstance(shape, TreeTemplate):
            shape = choose_tree(self.candidates)
        self._tree = DeviceTree.from_template(shape, batch, device)
        # Padding repeats the first candidate of the root; it counts as no node.
        rank = shape.rank + (0,) * (self._tree.nodes - shape.nodes)
        self._rank = torch.tensor(rank, dtype=torch.int32, device=device)
        self._parent = self._tree.parents[0]

    def draft(self, state: DraftState) -> Draft:
        """The matrix read along the tree; -1 where nothing is known."""
        tokens = ops.recycle_draft(
            self.adjacency, state.root, self._parent, self._rank, group=self._group
        )
        return Draft(tokens, self._tree)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Every scored node writes the row of its token."""
        ops.recycle_update_(
            self.adjacency, seen.tokens, seen.ids, n_nodes=seen.count, group=self._group
        )

    def keep(self, rows: Tensor) -> None:
        """The matrices stay."""
        self._tree = self._tree.keep(rows)
        self._group = None if self._group is None else self._group[rows]

    def save(self, path: str | Path) -> None:
        """Write the matrices to a safetensors file; ValueError before first use."""
        if self.adjacency is None:
            raise ValueError("TokenRecycling: adjacency: expected a used matrix, got none")
        save_file({"adjacency": self.adjacency.cpu()}, path)

    @classmethod
    def load(cls, path: str | Path, tree: str | TreeTemplate = "auto") -> "TokenRecycling":
        """A drafter with the matrices of `save`, for a hot start.

        Siblings come from different places of one row. The target's best tokens differ anyway; of
        what a file repeats in a row, the first is kept.

        Raises:
            ValueError: the file holds no matrix.
        """
        adjacency = load_file(path).get("adjacency")
        if adjacency is None or adjacency.dim() not in (2, 3) or adjacency.dtype != torch.int32:
            raise ValueError(
                f"TokenRecycling: {path}: expected an int32 [V, K] or [G, V, K] 'adjacency'"
            )
        groups = 1 if adjacency.dim() == 2 else adjacency.shape[0]
        drafter = cls(tree, candidates=adjacency.shape[-1], groups=groups)
        repeated = (adjacency[..., :, None] == adjacency[..., None, :]).tril(-1).any(-1)
        drafter.adjacency = adjacency.masked_fill(repeated, -1)
        return drafter
