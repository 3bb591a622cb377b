"""What a generation cost and gained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.drafting import Drafter
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treetext import TreeText

STAGES = "draft", "forward", "verify"


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
        self._seconds = dict.fromkeys(("prefill", *STAGES), 0.0)
        self._marks: list[tuple[float, ...]] = []
        self._paths: list[Tensor] = []

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def mark(self, *marks: float) -> None:
        """When one step began, and when each of STAGES was over."""
        self._marks.append(marks)

    def append(self, path: Tensor) -> None:
        """Accepted paths [B, N] of one step."""
        self._paths.append(path)

    def stats(
        self, text: TreeText, sizer: TreeSizer, seconds: float, drafter: Drafter
    ) -> TreeStats:
        """All of it; the sizer learns which candidates were right."""
        for marks in self._marks:
            for stage, begin, end in zip(STAGES, marks, marks[1:], strict=False):
                self._seconds[stage] += end - begin
        shape = self.template
        by_depth: list[float] = []
        deepest = drafter.most_depth if shape is None else shape.deepest
        if self._paths and deepest > 0:
            path = torch.cat(self._paths)[:, : deepest + 1].cpu()
            path = path[path[:, 0] >= 0]
            if len(path):
                by_depth = (path[:, 1:] >= 0).float().mean(0).tolist()
            if shape is not None:
                sizer.learn(shape, path)
        return TreeStats(
            forwards=1 + len(self._paths),
            new_tokens=(text.length - text.start).tolist(),
            tree_nodes=drafter.most_nodes if shape is None else shape.nodes,
            accepted_by_depth=by_depth,
            seconds=seconds,
            seconds_by_stage=self._seconds,
        )
