"""Stochastic verification in plain torch, one sequence and one node at a time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenburst.ref.philox import log_fast
from tokenburst.ref.weights import (
    LARGEST,
    UNIT,
    clean,
    exp_fast,
    pick,
    random_below,
    random_words,
    softmax_weights,
    uniform,
    weigh,
)

MODES = ("walk", "rrs", "rrs_wr", "kseq", "block", "lossy_typical", "lossy_grouped")
_VERDICTS = 2**31  # first counter of this op's random numbers
_MAX_DRAFTS = 8


def process(
    logits: Tensor,
    seen: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    penalty: float = 1.0,
) -> Tensor:
    """Weights [V] float64 that a target row leaves to each token; `seen` [V] bool.

    Penalty, temperature, top-k, top-p, min-p, in this order, each on what the one before left;
    tokens rank by (logit descending, id ascending).
    """
    x = clean(logits)
    pen = torch.tensor(penalty, dtype=torch.float32)
    changed = torch.where(x < 0, x * pen, x / pen).clamp_max(LARGEST)
    x = torch.where(seen, changed, x)
    w = softmax_weights(x, temperature)
    if not temperature > 0:
        return w
    order = x.sort(descending=True, stable=True).indices
    ranked = w[order].clone()
    if 0 < top_k < len(x):
        ranked[top_k:] = 0
    if top_p < 1:
        total = ranked.long().cumsum(0)
        limit = float(torch.tensor(top_p, dtype=torch.float32)) * float(total[-1])
        out = (total - ranked.long()).double() >= limit
        out[0] = False
        ranked[out] = 0
    if min_p > 0:
        ranked[ranked < float(torch.tensor(min_p, dtype=torch.float32)) * UNIT] = 0
    return torch.zeros_like(w).scatter_(0, order, ranked)


def _scaled(coefficient: float, u: Tensor) -> Tensor:
    return (coefficient * u).clamp_max(2.0**41).round()


@dataclass
class _Sequence:
    """One sequence on its way down the tree."""

    args: dict
    b: int
    node: int = 0
    path: list[int] = field(default_factory=list)
    n_nan: int = 0

    def __post_init__(self) -> None:
        a, b = self.args, self.b
        self.tokens, self.parent = a["tokens"][b].tolist(), a["parent"][b].tolist()
        self.count = int(a["n_nodes"][b])
        self.seed, self.sequence, self.root = a["rng"][b].tolist()
        self.vocab = a["logits"].shape[2]
        self.stop = set() if a["eos"] is None else set(a["eos"].tolist())
        self.draws = list(range(len(self.tokens)))
        if a["draws"] is not None:
            self.draws = a["draws"][b].tolist()
        self.draft_cache: dict[int, Tensor] = {}

    def value(self, name: str, default: float) -> float:
        given = self.args[name]
        return default if given is None else given[self.b].item()

    def possible(self, token: int) -> bool:
        return 0 <= token < self.vocab

    def ended(self) -> bool:
        return self.node > 0 and self.tokens[self.node] in self.stop

    def random(self, slot: int) -> list[int]:
        position = self.root + len(self.path) - 1
        step = 0 if slot == 0 else self.root
        return random_words(self.seed, _VERDICTS + slot, position, step, self.sequence)

    def accept(self, node: int) -> None:
        self.node = node
        self.path.append(node)

    def open(self) -> Tensor | None:
        """Target weights after the current node; None where its row holds no number."""
        row = self.args["logits"][self.b, self.node].float().cpu()
        self.n_nan += int(row.isnan().sum())
        seen = torch.zeros(self.vocab, dtype=torch.bool)
        if self.args["repetition_penalty"] is not None:
            if self.args["seen"] is not None:
                words = self.args["seen"][self.b].cpu()
                bits = words[:, None] >> torch.arange(32) & 1
                seen = bits.flatten()[: self.vocab].bool()
            for node in self.path:
                if self.possible(self.tokens[node]):
                    seen[self.tokens[node]] = True
        w = process(
            row,
            seen,
            temperature=self.value("temperature", 1.0),
            top_k=int(self.value("top_k", 0)),
            top_p=self.value("top_p", 1.0),
            min_p=self.value("min_p", 0.0),
            penalty=self.value("repetition_penalty", 1.0),
        )
        return w if w.sum() > 0 else None

    def choose(self, law: Tensor, slot: int) -> int:
        return pick(law, random_below(int(law.long().sum()), self.random(slot)))

    # --- drafts ----------------------------------------------------------------------------------
    def draws_here(self) -> list[tuple[int, int, int]]:
        """(index, node, draft row) of the draws below the current node, in draw order.

        Row -1: the token was certain.
        """
        found = []
        for m, node in enumerate(self.draws):
            below = self.node < node < self.count and self.parent[node] == self.node
            if not (below and self.possible(self.tokens[node])):
                continue
            row = -1
            if self.args["draft_logits"] is not None or self.args["draft_probs"] is not None:
                given = self.args["draft_row"]
                row = self.node if given is None else int(given[self.b, m])
                if not -1 <= row < self.num_rows():
                    continue
            found.append((m, node, row))
        return found

    def num_rows(self) -> int:
        dense = self.args["draft_logits"]
        return (self.args["draft_probs"] if dense is None else dense).shape[1]

    def draft(self, row: int) -> Tensor:
        """Weights [V] float64 of a draft row."""
        if row in self.draft_cache:
            return self.draft_cache[row]
        if self.args["draft_probs"] is None:
            logits = clean(self.args["draft_logits"][self.b, row].cpu())
            u = softmax_weights(logits, self.value("draft_temperature", 1.0))
        else:
            ids = self.args["draft_ids"][self.b, row].long().cpu()
            probs = self.args["draft_probs"][self.b, row].cpu()
            usable = (ids >= 0) & (ids < self.vocab) & (probs > 0) & (probs <= 2)
            u = torch.zeros(self.vocab, dtype=torch.float64)
            u.index_add_(0, ids[usable], weigh(probs[usable]))
        self.draft_cache[row] = u
        return u

    def certain(self, token: int) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(token), self.vocab).double()

    # --- modes -----------------------------------------------------------------------------------
    def run(self, mode: str) -> int:
        """Goes down the tree; returns the token after the path, -1 if there is none."""
        self.accept(0)
        if not self.value("temperature", 1.0) > 0 or mode == "walk":
            return self.walk()
        if mode == "block":
            return self.block()
        if mode == "lossy_typical":
            return self.typical()
        while True:
            w = self.open()
            if w is None:
                return -1
            child, law = -1, w
            if not self.ended():
                child, law = (self.kseq if mode == "kseq" else self.recursive)(w, mode)
            if child < 0:
                return self.choose(law if law.sum() > 0 else w, 1)
            self.accept(child)

    def walk(self) -> int:
        """Draw from the target; go down where that token was drafted."""
        while True:
            w = self.open()
            if w is None:
                return -1
            token = self.choose(w, 0)
            below = range(self.node + 1, 0 if self.ended() else self.count)
            match = [i for i in below if self.parent[i] == self.node and self.tokens[i] == token]
            if not match:
                return token
            self.accept(match[0])

    def recursive(self, w: Tensor, mode: str) -> tuple[int, Tensor]:
        """Tries the draws in order; an accepted child, or -1 and what is left of the target."""
        taken: dict[int, float] = {}  # coefficient of each draft row that was subtracted
        left: dict[int, Tensor] = {}  # its weights without what was rejected
        out = torch.zeros(self.vocab, dtype=torch.bool)

        def law() -> Tensor:
            rest = w.clone()
            for row, coefficient in taken.items():
                rest -= _scaled(coefficient, self.draft(row))
            return rest.clamp_min(0).masked_fill(out, 0)

        for m, node, row in self.draws_here():
            token, rest = self.tokens[node], law()
            total = float(rest.long().sum())
            coin = uniform(self.random(m + 2))
            if row == -1:
                if coin * total < rest[token]:
                    return node, rest
                out[token] = True
                if law().sum() == 0:
                    return -1, law()
                continue
            if row not in left:
                if len(left) == _MAX_DRAFTS or self.draft(row).sum() == 0:
                    continue
                left[row] = self.draft(row).clone()
            u = float(left[row][token])
            if u == 0:
                continue
            ratio = total / float(left[row].sum())
            if mode == "lossy_grouped":
                of_target, of_draft = self.group(w, self.draft(row), token)
                if of_target > 0 and coin * (ratio * of_draft) < of_target:
                    return node, rest
                taken[row] = ratio
                return -1, law()
            if coin * (ratio * u) < rest[token]:
                return node, rest
            taken[row] = taken.get(row, 0.0) + ratio
            if mode == "rrs":
                left[row][token] = 0
            if law().sum() == 0:
                return -1, rest
        return -1, law()

    def group(self, w: Tensor, u: Tensor, token: int) -> tuple[float, float]:
        """Masses of the tokens around this one in the order of the target's probabilities."""
        if w[token] == 0:
            return 0.0, float(u[token])
        order = w.sort(descending=True, stable=True).indices
        order = order[w[order] > 0].tolist()
        total, half = float(w.long().sum()), (self.args["group_size"] - 1) // 2
        delta = float(torch.tensor(self.args["group_delta"], dtype=torch.float32))
        at, members = order.index(token), [token]
        for side in (order[max(0, at - half) : at][::-1], order[at + 1 : at + 1 + half]):
            for other in side:
                if not abs(float(w[other]) / total - float(w[token]) / total) < delta:
                    break
                members.append(other)
        return sum(float(w[i]) for i in members), sum(float(u[i]) for i in members)

    def kseq(self, w: Tensor, mode: str) -> tuple[int, Tensor]:
        """Tries all draws of one row alike, with the least rho that leaves nothing negative."""
        draws = [d for d in self.draws_here() if d[2] >= 0]
        draws = [d for d in draws if d[2] == draws[0][2]]
        if not draws or self.draft(draws[0][2]).sum() == 0:
            return -1, w
        total, k = float(w.long().sum()), len(draws)
        u = self.draft(draws[0][2])
        s = _scaled(total / float(u.sum()), u)

        def beta(rho: float) -> float:
            return min(1.0, float(torch.minimum(s, (w / rho).round()).long().sum()) / total)

        def emitted(mass: float) -> float:
            none = 1.0
            for _ in range(k):
                none *= 1.0 - mass
            return 1.0 - none

        low, high = 1.0, float(k)
        for _ in range(16):
            if not high > low:
                break
            middle = 0.5 * (low + high)
            if emitted(beta(middle)) > middle * beta(middle):
                low = middle
            else:
                high = middle
        share = emitted(beta(high)) / beta(high) if beta(high) > 0 else 0.0
        for m, node, _ in draws:
            token = self.tokens[node]
            by_target = round(float(w[token]) / high)
            if uniform(self.random(m + 2)) * float(s[token]) < by_target and s[token] > 0:
                return node, w
        accepted = torch.minimum(s, (w / high).round())
        return -1, (w - (accepted * share).round()).clamp_min(0)

    def block(self) -> int:
        """Judges every prefix of a chain as a whole; the longest accepted one wins."""
        end = 0
        while (
            end + 1 < self.count
            and self.parent[end + 1] == end
            and self.possible(self.tokens[end + 1])
        ):
            end += 1
        ratio, kept, law = 1.0, 0, None
        while True:
            w = self.open()
            q = None
            if w is not None and self.node < end and not self.ended():
                q = self.next_draft()
            if w is None or q is None:
                if self.node == 0 or uniform(self.random(self.node + 2)) < ratio:
                    kept, law = self.node, w
                break
            total, token = float(w.long().sum()), self.tokens[self.node + 1]
            taken = _scaled(total / float(q.sum()), q)
            rest = ((ratio * w).round() - taken).clamp_min(0)
            if q.sum() == 1:  # certain
                rest = (ratio * w).round().masked_fill(q > 0, 0)
            mass = float(rest.long().sum())
            everything = mass + (1.0 - ratio) * total
            chance = mass / everything if everything > 0 else 1.0
            if self.node == 0 or uniform(self.random(self.node + 2)) < chance:
                kept, law = self.node, rest if mass > 0 else w
            share = float(q[token]) / float(q.sum())
            ratio = min(1.0, ratio * (float(w[token]) / total) / share)
            self.accept(self.node + 1)
        seen_nan = self.n_nan
        self.path, self.node = list(range(kept + 1)), kept
        self.open()  # the row is read once more
        self.n_nan = seen_nan
        return -1 if law is None else self.choose(law, 1)

    def next_draft(self) -> Tensor | None:
        """What the next node of the chain was drawn from; None if it cannot have been."""
        token = self.tokens[self.node + 1]
        for _, node, row in self.draws_here():
            if node != self.node + 1:
                continue
            q = self.certain(token) if row < 0 else self.draft(row)
            return q if q[token] > 0 else None
        return None

    def typical(self) -> int:
        """Whatever is likely enough is accepted; the deepest, then most probable path wins."""
        zero = torch.zeros((), dtype=torch.float32)
        paths: dict[int, list[int]] = {0: [0]}
        score: dict[int, Tensor] = {0: zero}
        best = 0
        for i in range(self.count):
            if i not in paths:
                continue
            if (len(paths[i]), float(score[i])) > (len(paths[best]), float(score[best])):
                best = i
            below = [c for c in range(i + 1, self.count) if self.parent[c] == i]
            self.path, self.node = paths[i], i
            if not below or self.ended():
                continue
            w = self.open()
            if w is None:
                continue
            p, least = self.threshold(w)
            for child in below:
                token = self.tokens[child]
                if self.possible(token) and p[token] > least:
                    paths[child] = [*paths[i], child]
                    score[child] = score[i] + log_fast(p[token].reshape(1))[0]
        again = any(self.parent[c] == best for c in range(best + 1, self.count))
        self.path, self.node, n_nan = paths[best], best, self.n_nan
        w = self.open()
        if again and not self.ended():
            self.n_nan = n_nan  # its row was read before
        if w is None:
            return -1
        p, least = self.threshold(w)
        law = torch.where(p > least, w, 0.0)
        return self.choose(law, 1) if law.sum() > 0 else int(w.argmax())

    def threshold(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [V] float32 and what a token's must exceed."""
        p = (w / float(w.long().sum())).float()
        terms = ((p * -log_fast(p + 1e-5)).double() * UNIT).round()
        entropy = torch.tensor(float(terms.long().sum()) / UNIT).float()
        epsilon, delta = (torch.tensor(self.args[n]).float() for n in ("epsilon", "delta"))
        return p, torch.minimum(epsilon, delta * exp_fast(-entropy))


def tree_verify_sample(
    tokens: Tensor,
    parent: Tensor,
    n_nodes: Tensor,
    logits: Tensor,
    mode: str,
    rng: Tensor,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    seen: Tensor | None = None,
    draft_logits: Tensor | None = None,
    draft_temperature: Tensor | None = None,
    draft_ids: Tensor | None = None,
    draft_probs: Tensor | None = None,
    draft_row: Tensor | None = None,
    draws: Tensor | None = None,
    eos: Tensor | None = None,
    epsilon: float = 0.09,
    delta: float = 0.3,
    group_size: int = 15,
    group_delta: float = 0.15,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sequence by sequence; see `tokenburst.ops.tree_verify_sample`."""
    args = dict(locals())
    batch, nodes = tokens.shape
    path = torch.full((batch, nodes), -1, dtype=torch.int32)
    n_accepted, n_nan = (torch.zeros(batch, dtype=torch.int32) for _ in range(2))
    next_token = torch.full((batch,), -1, dtype=torch.int64)
    for b in range(batch):
        if n_nodes[b] <= 0:
            continue
        sequence = _Sequence(args, b)
        next_token[b] = sequence.run(mode)
        path[b, : len(sequence.path)] = torch.tensor(sequence.path, dtype=torch.int32)
        n_accepted[b], n_nan[b] = len(sequence.path), sequence.n_nan
    return tuple(t.to(tokens.device) for t in (path, n_accepted, next_token, n_nan))
