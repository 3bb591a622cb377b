"""A small language model as drafter."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import (
    ChooseTree,
    Draft,
    DraftDistribution,
    Drafter,
    DraftState,
    Observation,
)
from tokenburst.decoders.draftkv import LevelReader
from tokenburst.decoders.drawing import Drawer
from tokenburst.decoders.shapes import DraftShape, StaticTree
from tokenburst.decoders.templates import TreeTemplate, template
from tokenburst.decoders.textreader import TextReader
from tokenburst.models.attention import twin


class DraftModel(Drafter):
    """Drafts with a causal language model of the same vocabulary, one forward per level of a tree.

    Args:
        model: a stock model as `TreeDecoder` takes it; its weights are shared, not copied.
        shape: what tree is drawn: a `DraftShape` such as `Chain`, `Branching`, `StochasticBeam`,
            `DySpec` or `Independent`, or a template for `StaticTree`.
        temperature: of the draft; None = that of the target. Where the target is greedy the most
            probable candidates are taken.
        top_k, top_p: what is left of the draft distributions; 0 and 1 leave all.

    Raises:
        ValueError: a model of no supported architecture, numbers out of range; at `generate` also
            a vocabulary or device other than the target's.

    Source: Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv
        2211.17192; for trees see the shapes.
    """

    watches_path = False  # beside other drafters; alone the path is its own

    def __init__(
        self,
        model: torch.nn.Module,
        shape: DraftShape | TreeTemplate | str,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        for name, value, holds in (
            ("temperature", temperature, temperature is None or 0 < temperature < float("inf")),
            ("top_k", top_k, top_k >= 0),
            ("top_p", top_p, 0 < top_p <= 1),
        ):
            if not holds:
                raise ValueError(f"DraftModel: {name}: expected a number in range, got {value}")
        self.model = twin(model)
        self.shape = shape if isinstance(shape, DraftShape) else StaticTree(template(shape))
        self.verification = self.shape.verification
        own = "that of the target" if temperature is None else f"{temperature:g}"
        self.draws = f"logits at temperature {own}"
        self._law = temperature, top_k, top_p

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """As the shape draws."""
        return self.shape.exact_modes

    @property
    def most_nodes(self) -> int:
        return self.shape.most_nodes

    @property
    def most_depth(self) -> int:
        return self.shape.most_depth

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """ValueError unless the vocabulary and the device are those of the draft model."""
        mine = self.model.get_output_embeddings().weight.shape[0]
        if mine != vocab_size:
            raise ValueError(
                f"DraftModel: model: expected a vocabulary of {vocab_size} as the target's, "
                f"got {mine}"
            )
        if self.model.device != device:
            raise ValueError(f"DraftModel: model: expected on {device}, got {self.model.device}")

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """The draft model reads the texts."""
        reader = TextReader if state.shared else LevelReader
        self._reader = reader(self.model, state, self.shape.most_rows)
        self.shape.begin(len(state.root), state.root.device)

    def draft(self, state: DraftState) -> Draft:
        """A tree of the draft model's candidates, and what they were drawn from."""
        drawer = Drawer(self._reader, state, *self._law)
        tokens, tree, row, self._kv_row, draws = self.shape.draw(drawer, state)
        pad = tree.nodes - tokens.shape[1]
        tokens = torch.nn.functional.pad(tokens, (0, pad), value=-1)
        if state.greedy:
            return Draft(tokens, tree)
        if draws is None:
            row = torch.nn.functional.pad(row, (0, tree.nodes - row.shape[1]), value=-1)
        q = DraftDistribution(
            logits=drawer.distributions(), temperature=drawer.temperature, row=row, draws=draws
        )
        return Draft(tokens, tree, q)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """The draft model's KV of the accepted path stays."""
        self._reader.commit(self._kv_row, seen.path, seen.n_accepted)

    def keep(self, rows: Tensor) -> None:
        """Fewer rows."""
        self._reader.keep(rows)
        self.shape.keep(rows)
