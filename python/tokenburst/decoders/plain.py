"""No guesses: the drafter of plain decoding."""

import torch
from torch import Tensor

from tokenburst.decoders.drafting import ChooseTree, DeviceTree, Draft, Drafter, DraftState
from tokenburst.decoders.templates import TreeTemplate


class PlainDrafter(Drafter):
    """One token per forward, through the same kernels as trees."""

    most_nodes = 1
    most_depth = 0

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """Makes the trees of roots alone."""
        self._tree = root_alone(len(state.root), state.root.device)

    def draft(self, state: DraftState) -> Draft:
        """The root."""
        return Draft(state.root[:, None], self._tree)

    def keep(self, rows: Tensor) -> None:
        """The same for fewer rows."""
        self._tree = self._tree.keep(rows)


def root_alone(batch: int, device: torch.device) -> DeviceTree:
    """A tree of one node for each sequence."""
    return DeviceTree.from_template(TreeTemplate.chain(0), batch, device)
