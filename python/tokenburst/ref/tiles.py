"""Masses of a row's tiles, bit for bit as in csrc/vocab/tile.h, in plain torch."""

import torch
from torch import Tensor

from tokenburst.ref.philox import fused, log_fast
from tokenburst.ref.weights import LARGEST, exp_fast, pick, weigh

TILE = 512
COLUMNS = 32  # partial sums of a tile
_EXP2 = (  # coefficients of 2^f, |f| <= 1/2, highest power first
    1.326472731e-3,
    9.671512991e-3,
    5.550733581e-2,
    2.402224243e-1,
    6.931470037e-1,
    1.0,
)


def in_tiles(x: Tensor, fill: float) -> Tensor:
    """[V] as [tiles, 512], filled up at the end."""
    return torch.nn.functional.pad(x, (0, -len(x) % TILE), value=fill).view(-1, TILE)


def tile_masses(logits: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Masses [tiles] int64 of cleaned logits with 1 / T, and log2 of the best token's.

    A tile's sum of 2^y, y = l log2(e) / T, is formed beside a power of two near its best, and then
    moved to the one near the row's best, which counts 2^40.
    """
    most = logits.amax()
    rate = (inverse * 1.442695041).clamp_max(LARGEST)
    shift = torch.where((most * rate).abs() < 2.0**20, 0.0, most)
    x = in_tiles(logits, -torch.inf)
    highest = x.amax(1)
    y = (highest - shift) * rate
    counts = y.abs() < 2.0**21
    exponent = torch.where(counts, y.round(), -torch.inf)
    sums = torch.where(counts, _sums(x, shift, rate, torch.where(counts, exponent, 0.0)), 0.0)
    top = ((most - shift) * rate).round()
    below = (exponent - top).double()
    mass = (sums.double() * torch.exp2(below + 40.0)).round()
    empty = (below < -38.0) & (weigh(exp_fast((highest - most) * inverse)) == 0.0)
    mass[empty | (below <= -44.0)] = 0.0
    return mass.long(), fused(most - shift, rate, -top)


def _sums(x: Tensor, shift: Tensor, rate: Tensor, exponent: Tensor) -> Tensor:
    magic = (12582912.0 - exponent)[:, None]  # a sum with it rounds to an integer
    least = ((exponent - 100.0) / rate)[:, None]
    above = x - shift
    above = torch.where(above > least, above, least)
    t = fused(above, rate, magic)
    f = fused(above, rate, magic - t)
    p = torch.full_like(f, _EXP2[0])
    for c in _EXP2[1:]:
        p = fused(p, f, c)
    e = (p.view(torch.int32) + (t.view(torch.int32) << 23)).view(torch.float32)
    e = torch.where((x == -torch.inf) & ~(least > -1e38), 0.0, e)
    rows = e.view(-1, TILE // COLUMNS, COLUMNS)
    column = rows[:, 0]
    for i in range(1, rows.shape[1]):
        column = column + rows[:, i]
    while column.shape[1] > 1:
        half = column.shape[1] // 2
        column = column[:, :half] + column[:, half:]
    return column[:, 0]


def pick_in_tile(weights: Tensor, mass: int, target: int) -> tuple[int, int]:
    """The token at a place in the tile's mass, and the mass that the others keep."""
    total = int(weights.sum())
    place = min(int(float(target) * (float(total) / float(mass))), total - 1)
    at = pick(weights, place)
    left = total - int(weights[at])
    return at, min(round(float(mass) * (float(left) / float(total))), mass)


def log_mass(mass: Tensor) -> Tensor:
    """Natural logarithm in units of 2^40."""
    return log_fast((mass.double() * 2.0**-40).float().reshape(1))[0]
