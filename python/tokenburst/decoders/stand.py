"""STAND: trees drawn from what followed the same n-grams before, kept as distributions."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.drafting import (
    ChooseTree,
    DeviceTree,
    Draft,
    DraftDistribution,
    Drafter,
    DraftState,
    Observation,
)
from tokenburst.decoders.templates import TreeTemplate, template

_STATE = {"key": torch.int64, "count": torch.int32, "ids": torch.int32, "probs": torch.float32}


class Stand(Drafter):
    """A table of next-token distributions by n-gram, kept over requests.

    After every step the target's best tokens at each scored node are averaged into the table under
    the node's last `most` .. `least` tokens. Drafts are drawn without replacement from the longest
    known context, at the target's temperature, so that sampled text accepts more of them than of
    the most probable tokens alone.

    Args:
        tree: 'auto' (sized for the device), a template name, or a `TreeTemplate`, for example the
            nodes that proved worth their place (`AcceptanceRecorder.best`).
        slots: contexts that the table holds, rounded up to 8 * 2^i; 92 bytes each at ten tokens.
        candidates: tokens kept per context, at most 16.
        most, least: tokens of the longest and the shortest context.
        prefill: also learn from the prompt, at the cost of the output head on all its rows.

    Raises:
        ValueError: numbers out of range, an unknown tree.

    Source: Song et al., Accelerated Test-Time Scaling with Model-Free Speculative Sampling,
        arXiv 2506.04708.
    """

    verification = "rrs"
    draws = "tables"
    watches_path = False

    def __init__(
        self,
        tree: str | TreeTemplate = "2.2.2",
        *,
        slots: int = 1 << 16,
        candidates: int = 10,
        most: int = 4,
        least: int = 2,
        prefill: bool = True,
    ) -> None:
        if not 1 <= candidates <= 16:
            raise ValueError(f"Stand: candidates: expected 1..16, got {candidates}")
        if not 1 <= least <= most <= 8:
            raise ValueError(
                f"Stand: least, most: expected 1 <= least <= most <= 8, got {least} and {most}"
            )
        if slots < 1:
            raise ValueError(f"Stand: slots: expected >= 1, got {slots}")
        self.tree = tree if tree == "auto" else template(tree)
        if isinstance(self.tree, TreeTemplate) and self.tree.width > candidates:
            raise ValueError(
                f"Stand: candidates: expected >= {self.tree.width} for this tree, got {candidates}"
            )
        self.candidates, self.prefill = candidates, prefill
        self._contexts = {"most": most, "least": least}
        size = 8 << max(0, (-(-slots // 8) - 1).bit_length())
        self._set(
            torch.zeros(size, dtype=torch.int64),
            torch.zeros(size, dtype=torch.int32),
            torch.full((size, candidates), -1, dtype=torch.int32),
            torch.zeros(size, candidates),
        )
        self.vocab_size: int | None = None  # set by the first use

    def _set(self, key: Tensor, count: Tensor, ids: Tensor, probs: Tensor) -> None:
        self.key, self.count, self.ids, self.probs = key, count, ids, probs

    @property
    def most_nodes(self) -> int:
        return self.tree.nodes if isinstance(self.tree, TreeTemplate) else 80

    @property
    def most_depth(self) -> int:
        return self.tree.deepest if isinstance(self.tree, TreeTemplate) else 79

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """ValueError if the table belongs to another vocabulary."""
        if self.candidates > vocab_size:
            raise ValueError(
                f"Stand: candidates: expected <= {vocab_size} words of the vocabulary, "
                f"got {self.candidates}"
            )
        if self.vocab_size is None:
            self.vocab_size = vocab_size
        if self.vocab_size != vocab_size or int(self.ids.max()) >= vocab_size:
            raise ValueError(
                f"Stand: expected a vocabulary of {self.vocab_size} as that of the table, "
                f"got {vocab_size}"
            )
        self._set(*(t.to(device) for t in (self.key, self.count, self.ids, self.probs)))

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """Makes the tree of the batch."""
        shape = self.tree
        if not isinstance(shape, TreeTemplate):
            shape = choose_tree(min(8, self.candidates))
        batch, device = len(state.root), state.root.device
        self._tree = DeviceTree.from_template(shape, batch, device)
        self._parent = torch.tensor(shape.parent, dtype=torch.int32, device=device)
        self._rank = torch.tensor(shape.rank, dtype=torch.int32, device=device)

    def draft(self, state: DraftState) -> Draft:
        """The table read along the tree."""
        drawn = ops.ngram_draft(
            *(self.key, self.ids, self.probs, state.tokens, state.length - 1),
            *(self._parent, self._rank),
            temperature=state.temperature,
            rng=state.rng,
            **self._contexts,
        )
        if state.greedy:
            return Draft(drawn.tokens, self._tree)
        pad = self._tree.nodes - drawn.tokens.shape[1]
        tokens = torch.nn.functional.pad(drawn.tokens, (0, pad), value=-1)
        q = DraftDistribution(ids=drawn.drawn, probs=drawn.drawn_probs, row=self._tree.parents)
        return Draft(tokens, self._tree, q)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """Every scored node teaches its contexts, accepted or not."""
        probs = seen.values.softmax(-1).nan_to_num(0.0)
        ops.ngram_update_(
            *(self.key, self.count, self.ids, self.probs),
            *(state.tokens, seen.start, seen.tokens, seen.tree.parents, seen.ids, probs),
            n_nodes=seen.count,
            **self._contexts,
        )

    def keep(self, rows: Tensor) -> None:
        """The table is shared by all rows and stays."""
        self._tree = self._tree.keep(rows)

    def save(self, path: str | Path) -> None:
        """Write the table to a safetensors file."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _STATE}
        numbers = {name: str(n) for name, n in self._contexts.items()}
        save_file(tensors, path, metadata=numbers)

    @classmethod
    def load(
        cls, path: str | Path, tree: str | TreeTemplate = "2.2.2", *, most: int = 4, least: int = 2
    ) -> "Stand":
        """A drafter with the table of `save`; give most and least as it had them.

        Raises:
            ValueError: the file holds no table.
        """
        tensors = load_file(path)
        sound = all(tensors.get(n) is not None and tensors[n].dtype == d for n, d in _STATE.items())
        sound = sound and tensors["ids"].shape == tensors["probs"].shape
        sound = sound and tensors["ids"].dim() == 2
        sound = sound and tensors["key"].shape == tensors["count"].shape == tensors["ids"].shape[:1]
        if not sound:
            raise ValueError(f"Stand: {path}: expected the tensors {', '.join(_STATE)} of a table")
        width = tensors["ids"].shape[1]
        drafter = cls(tree, slots=8, candidates=width, most=most, least=least)
        drafter._set(*(tensors[name] for name in _STATE))
        return drafter
