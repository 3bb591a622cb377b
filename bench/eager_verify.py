"""Every mode of `tree_verify_sample` for one sequence, as it is written in eager torch.

Rows of probabilities in float32, residuals over the whole vocabulary, a host read per decision: how
the published decoders do it. `p(node)` and `q(node)` give a node's target and draft row [V].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Row = Callable[[int], Tensor]
Draw = Callable[[Tensor], int]


@dataclass
class Tree:
    tokens: list[int]
    parent: list[int]

    def below(self, node: int) -> list[int]:
        return [i for i in range(node + 1, len(self.parent)) if self.parent[i] == node]


def filtered(row: Tensor, filters: dict) -> Tensor:
    """softmax of one row [V] after transformers' top-k and top-p."""
    x = row.float()
    if "top_k" in filters:
        x = x.masked_fill(x < x.topk(filters["top_k"]).values[-1], -torch.inf)
    if "top_p" in filters:
        ordered, ids = x.sort()
        out = ordered.softmax(-1).cumsum(-1) <= 1 - filters["top_p"]
        out[-1] = False
        x = x.masked_fill(out.scatter(0, ids, out), -torch.inf)
    return x.softmax(-1)


def by_multinomial(p: Tensor) -> int:
    """One token, as the published decoders draw it."""
    return int(p.multinomial(1))


def by_inverse(p: Tensor) -> int:
    """The same from the cumulative weights: one uniform number instead of V exponential ones."""
    upto = p.cumsum(0)
    at = torch.rand(1, device=p.device) * upto[-1]
    return int(torch.searchsorted(upto, at).clamp_max_(len(p) - 1))


def coin() -> float:
    return float(torch.rand(()))


def walk(tree: Tree, p: Row, q: Row, draw: Draw) -> tuple[list[int], int]:
    path = [0]
    while True:
        y = draw(p(path[-1]))
        match = [i for i in tree.below(path[-1]) if tree.tokens[i] == y]
        if not match:
            return path, y
        path.append(match[0])


def reject(tree: Tree, p: Row, q: Row, draw: Draw, replacement: bool) -> tuple[list[int], int]:
    """Recursive rejection: draws in order, each against what the earlier ones left."""
    path = [0]
    while True:
        target, draft, child = p(path[-1]), q(path[-1]), -1
        for i in tree.below(path[-1]):
            y = tree.tokens[i]
            if coin() * float(draft[y]) < float(target[y]):
                child = i
                break
            target = (target - draft).clamp_min_(0)
            target /= target.sum()
            if not replacement:
                draft = draft.clone()
                draft[y] = 0
                draft /= draft.sum()
        if child < 0:
            return path, draw(target)
        path.append(child)


def kseq(tree: Tree, p: Row, q: Row, draw: Draw) -> tuple[list[int], int]:
    """K-SEQ of SpecTr: rho by bisection, then all draws alike."""
    path = [0]
    while True:
        below = tree.below(path[-1])
        target, child = p(path[-1]), -1
        if not below:
            return path, draw(target)
        draft, low, high = q(path[-1]), 1.0, float(len(below))
        for _ in range(16):
            rho = 0.5 * (low + high)
            beta = float(torch.minimum(target / rho, draft).sum())
            low, high = (rho, high) if 1 - (1 - beta) ** len(below) > rho * beta else (low, rho)
        accepted = torch.minimum(target / high, draft)
        for i in below:
            y = tree.tokens[i]
            if coin() * float(draft[y]) < float(accepted[y]):
                child = i
                break
        if child < 0:
            beta = float(accepted.sum())
            share = (1 - (1 - beta) ** len(below)) / beta
            return path, draw((target - accepted * share).clamp_min_(0))
        path.append(child)


def block(tree: Tree, p: Row, q: Row, draw: Draw) -> tuple[list[int], int]:
    """Block verification of a chain (Sun et al.): the longest prefix that passes as a whole."""
    ratio, kept, law = 1.0, 0, None
    for node in range(len(tree.tokens)):
        target = p(node)
        if node + 1 == len(tree.tokens):
            if coin() < ratio:
                kept, law = node, target
            break
        draft, y = q(node), tree.tokens[node + 1]
        rest = (ratio * target - draft).clamp_min_(0)
        mass = float(rest.sum())
        if node == 0 or coin() < mass / (mass + 1 - ratio):
            kept, law = node, rest
        ratio = min(1.0, ratio * float(target[y]) / float(draft[y]))
    assert law is not None
    return list(range(kept + 1)), draw(law)


def typical(tree: Tree, p: Row, q: Row, draw: Draw) -> tuple[list[int], int]:
    """Medusa's typical acceptance; the deepest accepted path wins."""
    paths: dict[int, list[int]] = {0: [0]}
    best, rows = 0, {}
    for node in range(len(tree.tokens)):
        if node not in paths:
            continue
        best = node if len(paths[node]) > len(paths[best]) else best
        below = tree.below(node)
        if not below:
            continue
        rows[node] = target = p(node)
        entropy = -(target * torch.log(target + 1e-5)).sum()
        least = float((torch.exp(-entropy) * 0.3).clamp_max_(0.09))
        paths |= {i: [*paths[node], i] for i in below if float(target[tree.tokens[i]]) > least}
    target = rows[best] if best in rows else p(best)
    entropy = -(target * torch.log(target + 1e-5)).sum()
    least = (torch.exp(-entropy) * 0.3).clamp_max_(0.09)
    law = torch.where(target > least, target, 0)
    return paths[best], draw(law) if float(law.sum()) > 0 else int(target.argmax())


def grouped(tree: Tree, p: Row, q: Row, draw: Draw, size: int = 15, delta: float = 0.15):
    """Grouped acceptance: a token counts with its neighbours in the order of the target."""
    path = [0]
    while True:
        below, target = tree.below(path[-1]), p(path[-1])
        if not below:
            return path, draw(target)
        draft, y = q(path[-1]), tree.tokens[below[0]]
        ordered, ids = target.sort(descending=True)
        at = int((ids == y).nonzero())
        around = slice(max(0, at - size // 2), at + size // 2 + 1)
        near = (ordered[around] - ordered[at]).abs() < delta
        group = ids[around][near]
        if coin() * float(draft[group].sum()) >= float(target[group].sum()):
            return path, draw((target - draft).clamp_min_(0))
        path.append(below[0])


MODES: dict[str, Callable[[Tree, Row, Row, Draw], tuple[list[int], int]]] = {
    "walk": walk,
    "rrs": lambda *args: reject(*args, False),
    "rrs_wr": lambda *args: reject(*args, True),
    "kseq": kseq,
    "block": block,
    "lossy_typical": typical,
    "lossy_grouped": grouped,
}
