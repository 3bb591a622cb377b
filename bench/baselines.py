"""The published step loops in plain torch, as a user who follows the papers writes them.

What follows the logits in one step: LLaDA's transfer of the k most confident tokens, Fast-dLLM's
threshold, Token Recycling's draft, verdict, commit and update. With their float64, their loops in
Python and their reads of device scalars, since these are what a user pays for.
"""

import torch
from torch import Tensor

from tokenburst.decoders.templates import TreeTemplate


def llada_step(logits: Tensor, x: Tensor, mask_id: int, end: int, count: list[int]) -> Tensor:
    """Greedy, low-confidence remasking; logits [B, L, V], x [B, L], masks before `end`.

    Nie et al., LLaDA, arXiv 2502.09992, algorithm 5.
    """
    masked = x == mask_id
    proposal = logits.argmax(-1)
    confidence = logits.softmax(-1).gather(-1, proposal[..., None]).squeeze(-1)
    confidence[:, end:] = -torch.inf
    proposal = torch.where(masked, proposal, x)
    confidence = torch.where(masked, confidence, -torch.inf)
    transfer = torch.zeros_like(masked)
    for row in range(len(x)):
        chosen = confidence[row].topk(count[row]).indices
        transfer[row, chosen] = True
    return torch.where(transfer, proposal, x)


def fast_dllm_step(logits: Tensor, x: Tensor, mask_id: int, end: int, threshold: float) -> Tensor:
    """All tokens at or above the threshold, at least one; confidences in float64.

    Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.3.
    """
    masked = x == mask_id
    masked[:, end:] = False
    proposal = logits.argmax(-1)
    shares = logits.to(torch.float64).softmax(-1)
    confidence = shares.gather(-1, proposal[..., None]).squeeze(-1)
    confidence = torch.where(masked, confidence, -torch.inf)
    transfer = torch.zeros_like(masked)
    for row in range(len(x)):
        best = confidence[row].topk(int(masked[row].sum())).indices
        transfer[row, best] = True
        for i in best[1:]:
            if confidence[row, i] < threshold:
                transfer[row, i] = False
    return torch.where(transfer, proposal, x)


class RecyclingLoop:
    """Token Recycling of one sequence around the model's forward.

    Luo et al., Token Recycling, arXiv 2408.08696, sections 3.1 to 3.3.
    """

    def __init__(self, adjacency: Tensor, template: TreeTemplate) -> None:
        self.adjacency = adjacency  # [V, 8] int64, likely successors of each token
        device = adjacency.device
        depth = [0]
        for parent in template.parent[1:]:
            depth.append(depth[parent] + 1)
        self.levels = []  # (nodes, parents, ranks) below the root
        for level in range(1, max(depth) + 1):
            nodes = [i for i, d in enumerate(depth) if d == level]
            columns = nodes, [template.parent[i] for i in nodes], [template.rank[i] for i in nodes]
            self.levels.append([torch.tensor(c, device=device) for c in columns])
        leaves = sorted(set(range(len(depth))) - set(template.parent))
        paths = []
        for node in leaves:
            path = [node]
            while path[0] > 0:
                path.insert(0, template.parent[path[0]])
            paths.append(path + [-1] * (max(depth) + 1 - len(path)))
        self.paths = torch.tensor(paths, device=device)  # [leaves, depth + 1], -1 past the end
        self.nodes = len(depth)

    def draft(self, root: Tensor) -> Tensor:
        """Tokens [N] of the tree below root [1]: one gather per level."""
        tokens = root.new_zeros(self.nodes)
        tokens[0] = root[0]
        for nodes, parents, ranks in self.levels:
            tokens[nodes] = self.adjacency[tokens[parents], ranks]
        return tokens

    def after(self, logits: Tensor, tokens: Tensor, caches: list[Tensor], kv_len: int):
        """Accepted nodes and the next root; moves the KV of all caches, learns from all rows."""
        argmax = logits.argmax(-1)
        candidates = tokens[self.paths]
        candidates[self.paths < 0] = -100
        right = (candidates[:, 1:] == argmax[self.paths[:, :-1]]).long()
        matches = right.cumprod(1).sum(1)
        best = matches.argmax()
        accepted = self.paths[best, : int(matches[best]) + 1]
        for cache in caches:
            rows = cache.index_select(2, kv_len + accepted)
            cache[:, :, kv_len : kv_len + len(accepted)] = rows
        self.adjacency[tokens] = logits.topk(8).indices
        return accepted, argmax[accepted[-1]]
