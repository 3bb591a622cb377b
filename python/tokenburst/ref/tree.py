"""Draft trees in plain torch, one sequence and one node at a time."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tokenburst.ref.verify import tree_verify_sample

__all__ = [
    "tree_append_",
    "tree_build",
    "tree_commit_kv_",
    "tree_merge",
    "tree_verify_greedy",
    "tree_verify_sample",
]


def tree_build(parent: Tensor, n_nodes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Links and masks from parents, children in node order; see `tokenburst.ops.tree_build`."""
    batch, nodes = parent.shape
    depth, first_child, next_sibling = (
        torch.full((batch, nodes), -1, dtype=torch.int32) for _ in range(3)
    )
    visible = torch.zeros((batch, nodes, (nodes + 31) // 32, 32), dtype=torch.int64)
    for b in range(batch):
        up = parent[b].tolist()
        children: dict[int, list[int]] = {}
        for i in range(int(n_nodes[b])):
            if i > 0 and not (0 <= up[i] < i and depth[b, up[i]] >= 0):
                continue  # hangs on no node
            if i > 0:
                visible[b, i] = visible[b, up[i]]
                children.setdefault(up[i], []).append(i)
            visible[b, i, i // 32, i % 32] = 1
            depth[b, i] = 0 if i == 0 else depth[b, up[i]] + 1
        for i, below in children.items():
            first_child[b, i] = below[0]
            for sibling, following in pairwise(below):
                next_sibling[b, sibling] = following
    words = (visible << torch.arange(32)).sum(-1)
    ancestors = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    device = parent.device
    return depth.to(device), first_child.to(device), next_sibling.to(device), ancestors.to(device)


def tree_append_(
    text: Tensor,
    length: Tensor,
    root: Tensor,
    active: Tensor,
    rng: Tensor,
    end: Tensor,
    tokens: Tensor,
    path: Tensor,
    n_accepted: Tensor,
    next_token: Tensor,
    *,
    eos: Tensor | None = None,
    kv_len: Tensor | None = None,
) -> Tensor:
    """One token at a time; see `tokenburst.ops.tree_append_`."""
    stop = set() if eos is None else set(eos.tolist())
    taken = torch.zeros(len(length), dtype=torch.int32)
    for b in range(len(length)):
        nodes = path[b, 1 : int(n_accepted[b])].long()
        decided = [*tokens[b, nodes].tolist(), int(next_token[b])][: int(n_accepted[b])]
        last = min(int(end[b]), text.shape[1])
        ended = False
        for token in decided[: max(0, last - int(length[b]))]:
            text[b, int(length[b])] = token
            length[b] += 1
            rng[b, 2] += 1
            if kv_len is not None:
                kv_len[b] += 1
            taken[b] += 1
            ended = token in stop
            if ended:
                break
        active[b] = bool(active[b]) and not ended and int(length[b]) < int(end[b])
        if active[b]:
            root[b] = next_token[b]
    return taken.to(text.device)


def tree_merge(tokens: Tensor, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first node of each text stays; see `tokenburst.ops.tree_merge`."""
    batch, nodes = tokens.shape
    merged = torch.full((batch, nodes), -1, dtype=torch.int64)
    above = torch.zeros((batch, nodes), dtype=torch.int32)
    node = torch.full((batch, nodes), -1, dtype=torch.int32)
    for b in range(batch):
        text: dict[int, tuple[int, ...]] = {}  # of each node: tokens from the root down to it
        first: dict[tuple[int, ...], int] = {}
        for i, (up, token) in enumerate(zip(parent[b].tolist(), tokens[b].tolist(), strict=True)):
            if i > 0 and (token < 0 or not 0 <= up < i or up not in text):
                continue
            text[i] = (*text[up], token) if i > 0 else ()
            node[b, i] = first.setdefault(text[i], i)
            above[b, i] = node[b, up] if i > 0 else -1
            if node[b, i] == i:
                merged[b, i] = token
    return merged.to(tokens.device), above.to(tokens.device), node.to(tokens.device)


def tree_commit_kv_(
    k_caches: Sequence[Tensor],
    v_caches: Sequence[Tensor],
    kv_len: Tensor,
    path: Tensor,
    n_accepted: Tensor,
    *,
    page_table: Tensor | None = None,
) -> None:
    """Row kv_len + path[j] moves to kv_len + j; see `tokenburst.ops.tree_commit_kv_`."""
    for cache in (*k_caches, *v_caches):
        for b in range(kv_len.shape[0]):
            length, count = int(kv_len[b]), int(n_accepted[b])
            source = (length + path[b, :count].long()).to(cache.device)
            target = torch.arange(length, length + count, device=cache.device)
            if page_table is None:
                cache[b, :, target] = cache[b, :, source]
                continue
            (to, row), (start, start_row) = (
                (page_table[b, rows // cache.shape[2]].long(), rows % cache.shape[2])
                for rows in (target, source)
            )
            cache[to, :, row] = cache[start, :, start_row]


def tree_verify_greedy(
    tokens: Tensor, argmax: Tensor, parent: Tensor, n_nodes: Tensor, *, eos: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Longest matching path, lowest node on ties; see `tokenburst.ops.tree_verify_greedy`."""
    batch, nodes = tokens.shape
    path = torch.full((batch, nodes), -1, dtype=torch.int32)
    n_accepted = torch.zeros(batch, dtype=torch.int32)
    next_token = torch.full((batch,), -1, dtype=torch.int64)
    stop = set() if eos is None else set(eos.tolist())
    argmax = argmax if argmax.dim() == 2 else argmax[:, :, 0]
    for b in range(batch):
        token, target, up = tokens[b].tolist(), argmax[b].tolist(), parent[b].tolist()
        paths: list[list[int]] = []  # of each node, empty where it does not match
        for i in range(int(n_nodes[b])):
            if i == 0:
                paths.append([0])
                continue
            above = paths[up[i]]
            ended = up[i] != 0 and token[up[i]] in stop
            matches = bool(above) and not ended and token[i] >= 0 and token[i] == target[up[i]]
            paths.append([*above, i] if matches else [])
        if paths:
            best = max(paths, key=len)  # the first of the longest
            path[b, : len(best)] = torch.tensor(best, dtype=torch.int32)
            n_accepted[b] = len(best)
            next_token[b] = target[best[-1]]
    device = tokens.device
    return path.to(device), n_accepted.to(device), next_token.to(device)
