"""Token Recycling in plain torch, one node at a time."""

import torch
from torch import Tensor


def recycle_draft(
    adjacency: Tensor, root: Tensor, parent: Tensor, rank: Tensor, *, group: Tensor | None = None
) -> Tensor:
    """Each node looks up its parent's token; see `tokenburst.ops.recycle_draft`."""
    vocab = adjacency.shape[-2]
    up, place = parent.tolist(), rank.tolist()
    rows: list[list[int]] = []
    for b, start in enumerate(root.tolist()):
        matrix = adjacency if group is None else adjacency[int(group[b])]
        row = [start] if up else []
        for i in range(1, len(up)):
            before = row[up[i]]
            following = int(matrix[before, place[i]]) if 0 <= before < vocab else -1
            row.append(following if 0 <= following < vocab else -1)
        rows.append(row)
    tokens = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(up))
    return tokens.to(adjacency.device)


def recycle_update_(
    adjacency: Tensor,
    tokens: Tensor,
    ids: Tensor,
    *,
    n_nodes: Tensor | None = None,
    group: Tensor | None = None,
) -> None:
    """In (batch, node) order, so the last wins; see `tokenburst.ops.recycle_update_`."""
    vocab, ranks = adjacency.shape[-2:]
    batch, nodes = tokens.shape
    for b in range(batch):
        matrix = adjacency if group is None else adjacency[int(group[b])]
        for i in range(nodes if n_nodes is None else int(n_nodes[b])):
            token = int(tokens[b, i])
            if ranks > 0 and 0 <= token < vocab and ids[b, i, 0] >= 0:
                matrix[token] = ids[b, i, :ranks].to(torch.int32)
