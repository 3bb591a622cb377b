"""A drafter around another one, which it leaves as it is."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import ChooseTree, Draft, Drafter, DraftState, Observation


class Around(Drafter):
    """Drafts as `drafter` does; subclasses look on."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.candidates, self.prefill = drafter.candidates, drafter.prefill
        self.verification, self.draws = drafter.verification, drafter.draws
        self._drafted = False  # what is observed before is the prompt

    @property
    def exact_modes(self) -> tuple[str, ...]:
        return self.drafter.exact_modes

    @property
    def most_nodes(self) -> int:
        return self.drafter.most_nodes

    @property
    def most_depth(self) -> int:
        return self.drafter.most_depth

    def bind(self, vocab_size: int, device: torch.device) -> None:
        """As the drafter's."""
        self.drafter.bind(vocab_size, device)

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """As the drafter's."""
        self._drafted = False
        self.drafter.begin(state, choose_tree)

    def draft(self, state: DraftState) -> Draft:
        """As the drafter's."""
        self._drafted = True
        return self.drafter.draft(state)

    def observe(self, state: DraftState, seen: Observation) -> None:
        """As the drafter's."""
        self.drafter.observe(state, seen)

    def keep(self, rows: Tensor) -> None:
        """As the drafter's."""
        self.drafter.keep(rows)
