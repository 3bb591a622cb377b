"""What a drafter is: it guesses what comes next as a tree, and sees what the target made of it.

A decoding step is `draft`, one forward of the target over the tree, verification, commit,
`observe`. Whole steps are captured in CUDA graphs, so `draft` and `observe` read nothing back to
the host, keep the shapes of their results, and change their own state in place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import whole
from tokenburst.decoders.templates import TreeTemplate


@dataclass(frozen=True)
class DeviceTree:
    """Trees of a batch on the device, padded to whole groups of rows.

    Node 0 is the root. Siblings stand in the order in which they were drawn.
    """

    parents: Tensor  # [B, N] int32, topological: -1 at the root
    count: Tensor  # [B] int32: nodes of each tree; the rest is padding
    depth: Tensor  # [B, N] int32: edges to the root, 0 at padding
    ancestors: Tensor  # [B, N, W] int32 bits: what each node sees of the tree
    template: TreeTemplate | None = None  # what it was made from, where it is the same every step

    @classmethod
    def from_template(
        cls, shape: TreeTemplate, batch: int, device: torch.device | str
    ) -> "DeviceTree":
        """The same tree for every sequence."""
        parents = torch.tensor(shape.parent, dtype=torch.int32, device=device).expand(batch, -1)
        count = torch.full((batch,), shape.nodes, dtype=torch.int32, device=device)
        return cls.from_parents(parents, count, shape)

    @classmethod
    def from_parents(
        cls, parents: Tensor, count: Tensor, template: TreeTemplate | None = None
    ) -> "DeviceTree":
        """Of parents [B, N] int32, of which count[b] are real in row b; may change every step."""
        pad = whole(parents.shape[1]) - parents.shape[1]
        parents = torch.nn.functional.pad(parents, (0, pad))
        depth, _, _, ancestors = ops.tree_build(parents, count)
        return cls(parents, count, depth.clamp_(min=0), ancestors, template)

    @property
    def nodes(self) -> int:
        """N, padding included."""
        return self.parents.shape[1]

    def keep(self, rows: Tensor) -> "DeviceTree":
        """The trees of these rows [R] of the batch."""
        return DeviceTree(
            self.parents[rows],
            self.count[rows],
            self.depth[rows],
            self.ancestors[rows],
            self.template,
        )


class DraftDistribution(NamedTuple):
    """What drawn guesses were drawn from: R distributions per sequence, dense or sparse.

    Dense: softmax(logits / temperature), exactly as it was drawn from. Sparse: `probs` at `ids`,
    which sum to 1. A draw is a node, or, of guesses drawn with replacement, one of several draws
    that gave the same node.
    """

    logits: Tensor | None = None  # [B, R, V]
    temperature: Tensor | None = None  # [B] float32 of `logits`; None = 1
    ids: Tensor | None = None  # [B, R, K], -1 = none
    probs: Tensor | None = None  # [B, R, K] float32
    row: Tensor | None = None  # [B, M]: which of the R; -1 = none, certain; None: parent's index
    draws: Tensor | None = None  # [B, M]: node of each draw in draw order; None: every node


class Draft(NamedTuple):
    """Guesses for one step."""

    tokens: Tensor  # [B, N or fewer] int64: the root's token, then the guesses, -1 = none
    tree: DeviceTree
    q: DraftDistribution | None = None  # None: the guesses are no draws, q plays no part

    def padded(self) -> "Draft":
        """With as many tokens as the tree has nodes."""
        missing, q = self.tree.nodes - self.tokens.shape[1], self.q
        if missing == 0:
            return self
        if q is not None and q.row is not None and q.draws is None:  # one row per node
            q = q._replace(row=torch.nn.functional.pad(q.row, (0, missing), value=-1))
        tokens = torch.nn.functional.pad(self.tokens, (0, missing), value=-1)
        return self._replace(tokens=tokens, q=q)


@dataclass
class DraftState:
    """Where a batch stands. The decoder changes these tensors in place from step to step."""

    tokens: Tensor  # [B, L] int64: prompt and committed tokens; anything after them
    length: Tensor  # [B] int32: how many; the last of them is the root, not yet in the KV cache
    root: Tensor  # [B] int64
    active: Tensor  # [B] bool: still decoding; what is drafted for other rows is not looked at
    temperature: Tensor  # [B] float32, 0 = greedy
    rng: Tensor  # [B, 3] int64: seed, name of the sequence, position of the root (length - 1)
    greedy: bool  # every temperature is 0
    shared: int = 0  # tokens that a step may append, where not all come from this drafter's tree


class Observation(NamedTuple):
    """One verified draft. A piece of the prompt is a chain of accepted nodes."""

    tokens: Tensor  # [B, N] int64: as drafted
    tree: DeviceTree
    count: Tensor  # [B] int32: nodes that were scored; 0 in rows that are finished
    start: Tensor  # [B] int32: position of node 0 in the text; node i stands `depth` further
    ids: Tensor  # [B, N, candidates] int64: the target's best tokens after each of those, -1 = none
    values: Tensor  # [B, N, candidates] float32: their logits as the model gave them
    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32
    next_token: Tensor  # [B] int64: the target's token after the path


# Verifying modes that leave the target's distribution as it is, for draws that they are made for.
LOSSLESS = ("walk", "rrs", "rrs_wr", "kseq", "block")

ChooseTree = Callable[[int], TreeTemplate]


class Drafter(ABC):
    """Guesses tokens for a `TreeDecoder`.

    Attributes:
        candidates: how many of the target's best tokens per node `observe` wants; 0 = none.
        verification: the verifying mode that fits its guesses, where the caller names none.
        prefill: it also wants to observe the prompt, at the cost of the output head on all rows.
        draws: what its guesses are drawn from; None: they are no draws. Drafters that say the same
            can be verified together.
        watches_path: `observe` looks at the accepted path. False saves a step of merged drafters
            to tell each its own.
    """

    candidates: int = 0
    verification: str = "walk"
    prefill: bool = False
    draws: str | None = None
    watches_path: bool = True

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """Lossless modes that are exact for its guesses; guesses that are no draws suit all."""
        return LOSSLESS if self.verification == "walk" else ("walk", self.verification)

    @property
    @abstractmethod
    def most_nodes(self) -> int:
        """Nodes of the largest tree, root included: sizes the KV cache before anything runs."""

    @property
    @abstractmethod
    def most_depth(self) -> int:
        """Depth of the deepest node."""

    def bind(self, vocab_size: int, device: torch.device) -> None:  # noqa: B027 (optional)
        """Called before each generation; ValueError if it cannot draft for this vocabulary."""

    @abstractmethod
    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """A batch starts: its first tokens are known, nothing has been drafted.

        `choose_tree(k)` measures the device and returns the best tree of k candidates per node.
        """

    @abstractmethod
    def draft(self, state: DraftState) -> Draft:
        """A tree below each root; the same shapes in every step of a batch."""

    def observe(self, state: DraftState, seen: Observation) -> None:  # noqa: B027 (optional)
        """Learn from a verified draft; `state` is as it was when the draft was made."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Finished rows leave: row i of the batch is from now on what was rows[i] (int64 [R])."""
