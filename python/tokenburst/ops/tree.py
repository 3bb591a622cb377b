"""Draft trees: build, verify, commit. Equivalent plain torch: `tokenburst.ref.tree`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AcceptedPath(NamedTuple):
    """What one verification decided, on the device of its inputs."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32: nodes in `path`, root included; 0 where n_nodes is 0
    next_token: Tensor  # [B] int64: the target's token after the path; -1 where n_nodes is 0


class BuiltTree(NamedTuple):
    """What follows from the parents of a tree, on their device."""

    depth: Tensor  # [B, N] int32: edges to the root, -1 at nodes >= n_nodes
    first_child: Tensor  # [B, N] int32: lowest child, -1 = none
    next_sibling: Tensor  # [B, N] int32: next higher child of the same parent, -1 = none
    ancestors: Tensor  # [B, N, ceil(N / 32)] int32 bits: node itself and the nodes above it


def tree_build(parent: Tensor, n_nodes: Tensor) -> BuiltTree:
    """Depths, child and sibling links and ancestor bitmasks of draft trees.

    Bit j % 32 of word j / 32 in `ancestors[b, i]` is set where node j is i or an ancestor of i,
    which is what node i may see of the tree. Siblings are linked in node order. Nodes >= n_nodes
    have depth -1, no links and an empty mask. Equivalent to `tokenburst.ref.tree.tree_build`.

    Args:
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.
        n_nodes: [B] int32 or int64, nodes of each tree; 0 leaves the sequence out.

    Returns:
        `BuiltTree` with depth, first_child, next_sibling [B, N], ancestors [B, N, ceil(N / 32)].

    Raises:
        RuntimeError: wrong dtype, shape or device; more than 4096 nodes on a GPU; on the CPU also
            parents that are not topological and counts out of range. On a GPU a node with an
            impossible parent, or whose parent is no node, is no node itself.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4.2 (topology-aware causal mask).
    """
    return BuiltTree(*_tree_build(parent, n_nodes))


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


def tree_commit_kv_(
    k_caches: Sequence[Tensor],
    v_caches: Sequence[Tensor],
    kv_len: Tensor,
    path: Tensor,
    n_accepted: Tensor,
    *,
    page_table: Tensor | None = None,
) -> None:
    """Moves the accepted rows of every KV cache up to the committed ones, in place.

    In each sequence b, for j < n_accepted[b], row kv_len[b] + path[b, j] moves to kv_len[b] + j, in
    all heads of all caches; rows beyond are left over. `kv_len` is not advanced. Caches may differ
    in heads, width, dtype and strides; no two may share memory, and none may be expanded.
    Equivalent to `tokenburst.ref.tree.tree_commit_kv_`.

    Args:
        k_caches: one [B, H, S, D] float32, float16 or bfloat16 tensor per layer, D contiguous.
        v_caches: the same for the values.
        kv_len: [B] int32 or int64, rows committed before this step.
        path: [B, P] int32 or int64, accepted nodes ascending, as the verifying ops write them; what
            stands past n_accepted is not read.
        n_accepted: [B] int32 or int64, 0 leaves the sequence as it is.
        page_table: [B, P] int32; the caches are then [pages, H, page size, D], all with the same
            number of pages and page size, and row r of sequence b is row r % (page size) of page
            page_table[b, r // (page size)]. Pages that rows move to belong to one sequence only.

    Raises:
        RuntimeError: wrong dtype, shape or device, unequal numbers of layers; on the CPU also
            0 <= n_accepted <= P violated, a path that does not ascend from 0 on, or
            kv_len + path >= S, or pages that do not exist. On a GPU such rows do not move.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4 (shared KV cache of a token tree).
    """
    _tree_commit_kv_(
        list(k_caches), list(v_caches), kv_len, path, n_accepted, page_table=page_table
    )


_tree_build = torch.ops.tokenburst.tree_build.default
_tree_commit_kv_ = torch.ops.tokenburst.tree_commit_kv_.default
_tree_verify_greedy = torch.ops.tokenburst.tree_verify_greedy.default


@torch.library.register_fake("tokenburst::tree_verify_greedy")
def _(tokens, argmax, parent, n_nodes, *, eos=None):
    batch, nodes = tokens.shape
    path = tokens.new_empty((batch, nodes), dtype=torch.int32)
    n_accepted = tokens.new_empty((batch,), dtype=torch.int32)
    return path, n_accepted, tokens.new_empty((batch,), dtype=torch.int64)


@torch.library.register_fake("tokenburst::tree_build")
def _(parent, n_nodes):
    batch, nodes = parent.shape
    depth, first_child, next_sibling = (
        parent.new_empty((batch, nodes), dtype=torch.int32) for _ in range(3)
    )
    ancestors = parent.new_empty((batch, nodes, (nodes + 31) // 32), dtype=torch.int32)
    return depth, first_child, next_sibling, ancestors


@torch.library.register_fake("tokenburst::tree_commit_kv_")
def _(k_caches, v_caches, kv_len, path, n_accepted, *, page_table=None):
    return None
