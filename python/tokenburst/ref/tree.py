"""Draft trees in plain torch, one sequence and one node at a time."""

import torch
from torch import Tensor


def tree_verify_greedy(
    tokens: Tensor, argmax: Tensor, parent: Tensor, n_nodes: Tensor, *, eos: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Longest matching path, lowest node on ties; see `tokenburst.ops.tree_verify_greedy`."""
    batch, nodes = tokens.shape
    path = torch.full((batch, nodes), -1, dtype=torch.int32)
    n_accepted = torch.zeros(batch, dtype=torch.int32)
    next_token = torch.full((batch,), -1, dtype=torch.int64)
    stop = set() if eos is None else set(eos.tolist())
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
