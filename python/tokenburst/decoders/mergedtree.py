"""Where the nodes of several drafts stand in one tree, and what each draft sees of it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenburst.decoders.drafting import DeviceTree, Draft, DraftDistribution, Observation


class Part(NamedTuple):
    """One drafter's share of a merged tree."""

    draft: Draft
    node: Tensor  # [B, N] int64: which merged node each of its own is; -1 = none


class Layout(NamedTuple):
    """Where the nodes of several trees stand in a merged one of `total` nodes."""

    trees: list[DeviceTree]
    count: Tensor  # [B] int32: total
    parents: Tensor  # [B, total] int32, before merging
    real: Tensor  # [B, total] bool: no padding
    taken: Tensor  # [total] int64: which of all tokens as drafted, roots but the first left out
    columns: list[Tensor]  # of each drafter [N] int64: place of each of its nodes; total = none

    @classmethod
    def of(cls, trees: list[DeviceTree], most_nodes: list[int]) -> "Layout":
        """Where everything stands: the same in every step where the trees are."""
        device = trees[0].parents.device
        sizes = [min(t.nodes, most) for t, most in zip(trees, most_nodes, strict=True)]
        total = 1 + sum(size - 1 for size in sizes)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        taken, columns = [zero], []
        real = [torch.ones_like(trees[0].parents[:, :1], dtype=torch.bool)]
        parents = [torch.full_like(trees[0].parents[:, :1], -1)]
        begin, given = 0, 0  # nodes before a tree's: in the merged one, and in all as drafted
        for tree, size in zip(trees, sizes, strict=True):
            column = torch.arange(1, size, device=device)
            real.append(column < tree.count[:, None])
            above = tree.parents[:, 1:size]
            parents.append(torch.where(real[-1] & (above > 0), above + begin, 0))
            taken.append(column + given)
            none = torch.full((tree.nodes - size,), total, dtype=torch.int64, device=device)
            columns.append(torch.cat([zero, column + begin, none]))
            begin, given = begin + size - 1, given + tree.nodes - 1
        return cls(
            trees=trees,
            count=torch.full_like(trees[0].count, total),
            parents=torch.cat(parents, 1),
            real=torch.cat(real, 1),
            taken=torch.cat(taken),
            columns=columns,
        )


def distribution(parts: list[Part]) -> DraftDistribution:
    """What the draws of all parts were made from, one after the other; what is no draw is certain.

    A token that two parts drew is one node and two draws.
    """
    draws, rows, kept, begin = [], [], [], 0
    for draft, node in parts:
        q, below = draft.q, pad(node[:, 1:], (1, 0), value=-1)  # the root was not drawn
        if q is None:
            draws.append(below)
            rows.append(torch.full_like(below, -1))
            continue
        row = draft.tree.parents if q.row is None else q.row
        if q.draws is not None:
            below = below.gather(1, q.draws.clamp(min=0).long()).masked_fill(q.draws < 0, -1)
        row = row[:, : below.shape[1]].long()
        draws.append(below)
        rows.append((row + begin).masked_fill(row < 0, -1))
        laws = q.ids if q.logits is None else q.logits
        begin += 0 if laws is None else laws.shape[1]
        kept.append(q)
    every = {"row": torch.cat(rows, 1), "draws": torch.cat(draws, 1)}
    if kept[0].logits is not None:
        logits = torch.cat([q.logits for q in kept if q.logits is not None], 1)
        return DraftDistribution(logits, kept[0].temperature, **every)
    sparse = [(q.ids, q.probs) for q in kept if q.ids is not None and q.probs is not None]
    width = max(ids.shape[2] for ids, _ in sparse)
    ids = torch.cat([pad(ids, (0, width - ids.shape[2]), value=-1) for ids, _ in sparse], 1)
    probs = torch.cat([pad(probs, (0, width - probs.shape[2])) for _, probs in sparse], 1)
    return DraftDistribution(ids=ids, probs=probs, **every)


def seen_by(part: Part, seen: Observation, path: bool) -> Observation:
    """The observation in the numbers of one part's own tree; with its path where that is asked."""
    draft, node = part
    tree = draft.tree
    mine = seen._replace(
        tokens=draft.tokens, tree=tree, count=torch.minimum(seen.count, tree.count)
    )
    if seen.ids.shape[2] > 0:
        each = node.clamp(min=0)[:, :, None].expand(-1, -1, seen.ids.shape[2])
        mine = mine._replace(ids=seen.ids.gather(1, each), values=seen.values.gather(1, each))
    return mine._replace(**_path_of(part, seen)) if path else mine


def _path_of(part: Part, seen: Observation) -> dict[str, Tensor]:
    """A part's share of the accepted path: the first of its nodes at each depth that is on it."""
    draft, node = part
    nodes, place = node.shape[1], seen.path.clamp(min=0).long()
    taken = torch.zeros_like(seen.tokens, dtype=torch.bool).scatter_(1, place, seen.path >= 0)
    taken[:, 0] = seen.n_accepted > 0
    mine = taken.gather(1, node.clamp(min=0)) & (node >= 0)
    column = torch.arange(nodes, device=node.device)
    path = torch.full_like(node, nodes)
    path.scatter_reduce_(1, draft.tree.depth.long(), torch.where(mine, column, nodes), "amin")
    reached = (path < nodes).sum(1)
    after = torch.where(seen.path < 0, seen.next_token[:, None], seen.tokens.gather(1, place))
    return {
        "path": path.where(path < nodes, -1).to(torch.int32),
        "n_accepted": reached.to(torch.int32),
        "next_token": after.gather(1, reached.clamp(max=after.shape[1] - 1)[:, None])[:, 0],
    }
