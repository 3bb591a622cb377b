"""What a generation cost and gained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treetext import TreeText


@dataclass
class TreeStats:
    """What a generation cost and gained. `tokens_per_forward` counts the prefill as a forward."""

    forwards: int
    new_tokens: list[int]  # per sequence
    tree_nodes: int  # nodes of the tree, root included
    accepted_by_depth: list[float]  # share of steps whose path reached depth 1, 2, ...
    seconds: float
    seconds_by_stage: dict[str, float]  # CPU time of the calls; a captured step is not divided

    @property
    def tokens_per_forward(self) -> float:
        """Mean over the sequences of tokens per forward."""
        return sum(self.new_tokens) / max(1, len(self.new_tokens)) / max(1, self.forwards)


class StepLog:
    """Collects `TreeStats` without asking the device before the end."""

    def __init__(self) -> None:
        self.template: TreeTemplate | None = None  # of the trees, where they are all the same
        self._seconds = dict.fromkeys(("prefill", "draft", "forward", "verify"), 0.0)
        self._paths: list[Tensor] = []

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def append(self, path: Tensor) -> None:
        """Accepted paths [B, depth + 1] of one step."""
        self._paths.append(path)

    def stats(self, text: TreeText, sizer: TreeSizer, seconds: float, most_nodes: int) -> TreeStats:
        """All of it; the sizer learns which candidates were right."""
        by_depth: list[float] = []
        if self._paths and self._paths[0].shape[1] > 1:
            path = torch.cat(self._paths).cpu()
            path = path[path[:, 0] >= 0]
            if len(path):
                by_depth = (path[:, 1:] >= 0).float().mean(0).tolist()
            if self.template is not None:
                sizer.learn(self.template, path)
        return TreeStats(
            forwards=1 + len(self._paths),
            new_tokens=(text.length - text.start).tolist(),
            tree_nodes=most_nodes if self.template is None else self.template.nodes,
            accepted_by_depth=by_depth,
            seconds=seconds,
            seconds_by_stage=self._seconds,
        )
