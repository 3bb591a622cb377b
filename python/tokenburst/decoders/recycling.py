"""Token Recycling (Luo et al., arXiv 2408.08696): draft what the target ranked high before."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.templates import TreeTemplate, template


class TokenRecycling:
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

    def draft(self, root: Tensor, parent: Tensor, rank: Tensor) -> Tensor:
        """Tokens [B, N] int64 of the tree below `root` [B]; -1 where nothing is known."""
        return ops.recycle_draft(self.adjacency, root, parent, rank)

    def observe(self, tokens: Tensor, ids: Tensor, n_nodes: Tensor) -> None:
        """Learn the target's top candidates `ids` [B, N, K] after `tokens` [B, N]."""
        ops.recycle_update_(self.adjacency, tokens, ids, n_nodes=n_nodes)

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
