"""Token Recycling (Luo et al., arXiv 2408.08696): draft what the target ranked high before."""

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
    """

    def __init__(
        self, tree: str | TreeTemplate = "auto", *, candidates: int = 8, prefill: bool = True
    ) -> None:
        if candidates < 1:
            raise ValueError(f"TokenRecycling: candidates: expected >= 1, got {candidates}")
        self.tree = tree if tree == "auto" else template(tree)
        if isinstance(self.tree, TreeTemplate) and self.tree.width > candidates:
            raise ValueError(
                f"TokenRecycling: candidates: expected >= {self.tree.width} for this tree, "
                f"got {candidates}"
            )
        self.candidates = candidates
        self.prefill = prefill
        self.adjacency: Tensor | None = None  # [V, K] int32, -1 = not seen yet

    @property
    def most_nodes(self) -> int:
        return self.tree.nodes if isinstance(self.tree, TreeTemplate) else max(SIZES)

    @property
    def most_depth(self) -> int:
        return max(self.tree.depth) if isinstance(self.tree, TreeTemplate) else max(SIZES) - 1

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """Make the matrix on first use; ValueError if it belongs to another vocabulary."""
        if self.adjacency is None:
            shape = (vocab_size, self.candidates)
            self.adjacency = torch.full(shape, -1, dtype=torch.int32, device=device)
        if self.adjacency.shape[0] != vocab_size:
            raise ValueError(
                f"TokenRecycling: adjacency: expected {vocab_size} rows for this model, "
                f"got {self.adjacency.shape[0]}"
            )
        self.adjacency = self.adjacency.to(device)

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """Makes the tree of the batch."""
        shape = self.tree
        if not isinstance(shape, TreeTemplate):
            shape = choose_tree(self.candidates)
        batch, device = len(state.root), state.root.device
        self._tree = DeviceTree.from_template(shape, batch, device)
        # Padding repeats the first candidate of the root; it counts as no node.
        rank = shape.rank + (0,) * (self._tree.nodes - shape.nodes)
        self._rank = torch.tensor(rank, dtype=torch.int32, device=device)
        self._parent = self._tree.parents[0]

    def draft(self, state: DraftState) -> Draft:
        """The matrix read along the tree; -1 where nothing is known."""
        tokens = ops.recycle_draft(self.adjacency, state.root, self._parent, self._rank)
        return Draft(tokens, self._tree)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Every scored node writes the row of its token."""
        ops.recycle_update_(self.adjacency, seen.tokens, seen.ids, n_nodes=seen.count)

    def keep(self, rows: Tensor) -> None:
        """The matrix is shared by all rows and stays."""
        self._tree = self._tree.keep(rows)

    def save(self, path: str | Path) -> None:
        """Write the matrix to a safetensors file; ValueError before first use."""
        if self.adjacency is None:
            raise ValueError("TokenRecycling: adjacency: expected a used matrix, got none")
        save_file({"adjacency": self.adjacency.cpu()}, path)

    @classmethod
    def load(cls, path: str | Path, tree: str | TreeTemplate = "auto") -> "TokenRecycling":
        """A drafter with the matrix of `save`; ValueError if the file holds none."""
        tensors = load_file(path)
        adjacency = tensors.get("adjacency")
        if adjacency is None or adjacency.dim() != 2 or adjacency.dtype != torch.int32:
            raise ValueError(f"TokenRecycling: {path}: expected an int32 [V, K] 'adjacency'")
        drafter = cls(tree, candidates=adjacency.shape[1])
        drafter.adjacency = adjacency
        return drafter
