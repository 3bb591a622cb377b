"""Sudoku of side n: grids, puzzles with one solution, and the check of an answer."""

import hashlib
import math
from functools import cache

import torch
from torch import Tensor

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # side -> rows and columns of a box
TEST_IN = 10  # one grid in this many is never trained on


def box_shape(n: int) -> tuple[int, int]:
    """Rows and columns of a box on a board of side n."""
    if n not in BOXES:
        raise ValueError(f"sudoku: side must be one of {sorted(BOXES)}, got {n}")
    return BOXES[n]


@cache
def units(n: int) -> Tensor:
    """Cells of the 3n rows, columns and boxes, int64 [3n,n]."""
    height, width = box_shape(n)
    cells = torch.arange(n * n).view(n, n)
    boxes = cells.view(n // height, height, n // width, width).permute(0, 2, 1, 3)
    return torch.cat([cells, cells.T, boxes.reshape(n, n)])


@cache
def _peers(n: int) -> tuple[tuple[int, ...], ...]:
    """For each cell, the cells that may not share its digit."""
    rows = units(n).tolist()
    return tuple(
        tuple(sorted({c for row in rows if cell in row for c in row} - {cell}))
        for cell in range(n * n)
    )


def solutions(
    puzzle: list[int], n: int, limit: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Up to `limit` completions of `puzzle` (n*n digits, 0 = blank), each a list of n*n digits.

    Fills the blank cell with the fewest candidates first; with a generator, digits are tried in
    random order, so that the first completion is a random one.
    """
    cells, peers = list(puzzle), _peers(n)
    found: list[list[int]] = []
    full = (1 << (n + 1)) - 2

    def fill() -> bool:
        best, best_options = -1, 0
        for cell in range(n * n):
            if cells[cell] == 0:
                options = full
                for peer in peers[cell]:
                    options &= ~(1 << cells[peer])
                if best < 0 or options.bit_count() < best_options.bit_count():
                    best, best_options = cell, options
                    if options.bit_count() <= 1:
                        break
        if best < 0:
            found.append(list(cells))
            return len(found) >= limit
        digits = [digit for digit in range(1, n + 1) if best_options >> digit & 1]
        if generator is not None:
            digits = [digits[i] for i in torch.randperm(len(digits), generator=generator).tolist()]
        for digit in digits:
            cells[best] = digit
            if fill():
                return True
        cells[best] = 0
        return False

    fill()
    return found


def shuffle_grids(grids: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Applies to each of grids [B,n*n] a random symmetry of its own: digits relabelled, bands and
    the lines inside them permuted both ways, and, where boxes are square, transposition."""
    height, width = box_shape(n)
    count = len(grids)

    def order(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).argsort(-1)

    def lines(size: int) -> Tensor:
        bands, inner = order(count, n // size), order(count, n // size, size)
        return (bands[..., None] * size + inner).view(count, n)

    grids = grids.view(count, n, n)
    grids = grids.gather(1, lines(height)[:, :, None].expand(-1, -1, n))
    grids = grids.gather(2, lines(width)[:, None, :].expand(-1, n, -1))
    if height == width:
        flip = torch.rand(count, 1, 1, generator=generator) < 0.5
        grids = torch.where(flip, grids.mT, grids)
    digits = torch.cat([torch.zeros(count, 1, dtype=torch.int64), order(count, n) + 1], 1)
    return digits.gather(1, grids.reshape(count, n * n))


def in_test(grids: Tensor) -> Tensor:
    """Whether each of grids [B,n*n] belongs to the test split, bool [B]."""
    rows = grids.to(torch.uint8).numpy()
    digests = [hashlib.blake2b(row.tobytes(), digest_size=4).digest() for row in rows]
    return torch.tensor([int.from_bytes(d, "big") % TEST_IN == 0 for d in digests])


@cache
def base_grids(n: int, count: int, seed: int) -> Tensor:
    """`count` random complete grids by backtracking, int64 [count,n*n]; of either split."""
    generator = torch.Generator().manual_seed(seed)
    blank = [0] * (n * n)
    return torch.tensor([solutions(blank, n, 1, generator)[0] for _ in range(count)])


def grids(n: int, count: int, generator: torch.Generator, split: str = "train") -> Tensor:
    """`count` random complete grids of one split, int64 [count,n*n].

    Symmetries of a fixed set of backtracked grids; the split is by a hash of the exact grid.
    """
    if split not in ("train", "test"):
        raise ValueError(f"sudoku: split must be 'train' or 'test', got {split!r}")
    base = base_grids(n, 512, 0)
    share = 1 / TEST_IN if split == "test" else 1 - 1 / TEST_IN
    kept: list[Tensor] = []
    while sum(map(len, kept)) < count:
        draw = int(count / share * 1.1) + 8
        picks = base[torch.randint(len(base), (draw,), generator=generator)]
        made = shuffle_grids(picks, n, generator)
        kept.append(made[in_test(made) == (split == "test")])
    return torch.cat(kept)[:count]


def puzzles(
    n: int, count: int, seed: int = 0, split: str = "test", givens: int = 0, unique: bool = True
) -> tuple[Tensor, Tensor]:
    """Random puzzles with their solutions, both int64 [count,n*n], 0 = blank.

    Digits are taken away in random order down to `givens`; with `unique`, a digit that the solution
    needs to stay the only one is left. So the default makes the hardest kind, where no given can be
    spared, and `unique=False` puzzles with exactly `givens` digits and any number of completions.
    """
    generator = torch.Generator().manual_seed(seed)
    solved = grids(n, count, generator, split)
    asked = solved.clone()
    for row in range(count):
        cells, left = asked[row].tolist(), n * n
        for cell in torch.randperm(n * n, generator=generator).tolist():
            if left <= givens:
                break
            digit, cells[cell] = cells[cell], 0
            if unique and len(solutions(cells, n, 2)) > 1:
                cells[cell] = digit
            else:
                left -= 1
        asked[row] = torch.tensor(cells)
    return asked, solved


def is_solved(cells: Tensor, puzzle: Tensor) -> Tensor:
    """Whether cells [B,n*n] completes puzzle [B,n*n]: its givens kept, each unit holding every
    digit once. bool [B]."""
    n = math.isqrt(cells.shape[-1])
    seen = cells[:, units(n).to(cells.device)].sort(-1).values
    complete = (seen == torch.arange(1, n + 1, device=cells.device)).flatten(1).all(1)
    return complete & ((puzzle == 0) | (puzzle == cells)).all(1)
