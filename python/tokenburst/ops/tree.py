"""Draft trees: build, verify, commit. Equivalent plain torch: `tokenburst.ref.tree`."""

from typing import NamedTuple

import torch
from torch import Tensor


class AcceptedPath(NamedTuple):
    """What one verification decided, on the device of its inputs."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32: nodes in `path`, root included; 0 where n_nodes is 0
    next_token: Tensor  # [B] int64: the target's token after the path; -1 where n_nodes is 0


def tree_verify_greedy(
    tokens: Tensor, argmax: Tensor, parent: Tensor, n_nodes: Tensor, *, eos: Tensor | None = None
) -> AcceptedPath:
    """Longest path of drafted tokens that greedy decoding would have written itself.

    A node is accepted when its token equals the target's argmax after its parent and the parent is
    accepted; the root is the last committed token and always accepted. The deepest accepted node
    wins, the lowest index on ties. Nothing is accepted below a drafted end-of-sequence token.
    Equivalent to `tokenburst.ref.tree.tree_verify_greedy`.

    Args:
        tokens: [B, N] int32 or int64, drafted token of each node; -1 is never accepted.
        argmax: [B, N] int32 or int64, the target's most likely token after each node; -1 = none.
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.
        n_nodes: [B] int32 or int64, nodes of each tree; 0 leaves the sequence out.
        eos: [E] int32 or int64, end-of-sequence ids.

    Returns:
        `AcceptedPath` with path [B, N], n_accepted [B], next_token [B].

    Raises:
        RuntimeError: wrong dtype, shape or device; on the CPU also parents that are not topological
            and counts out of range. On a GPU a node with an impossible parent is never accepted.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4.2 (greedy verification of a tree).
    """
    return AcceptedPath(*_tree_verify_greedy(tokens, argmax, parent, n_nodes, eos=eos))


_tree_verify_greedy = torch.ops.tokenburst.tree_verify_greedy.default


@torch.library.register_fake("tokenburst::tree_verify_greedy")
def _(tokens, argmax, parent, n_nodes, *, eos=None):
    batch, nodes = tokens.shape
    path = tokens.new_empty((batch, nodes), dtype=torch.int32)
    n_accepted = tokens.new_empty((batch,), dtype=torch.int32)
    return path, n_accepted, tokens.new_empty((batch,), dtype=torch.int64)
