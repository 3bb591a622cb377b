"""Kinds of puzzles that rules are measured on."""

from typing import NamedTuple

from torch import Tensor

from tokenburst.zoo import sudoku


class Kind(NamedTuple):
    """Puzzles of a built-in model; givens 0: none to spare; free: any completion is right."""

    model: str
    givens: int
    free: bool = False

    @property
    def side(self) -> int:
        return int(self.model.removeprefix("sudoku"))

    @property
    def label(self) -> str:
        return f"{self.model}-{self.givens}" + "-free" * self.free

    def puzzles(self, count: int, seed: int, split: str) -> tuple[Tensor, Tensor]:
        """Puzzles and solutions [count, cells]."""
        return sudoku.puzzles(self.side, count, seed, split, self.givens, unique=not self.free)


KINDS = (
    Kind("sudoku4", 0),
    Kind("sudoku4", 3, free=True),
    Kind("sudoku6", 14),
    Kind("sudoku6", 18),
)
