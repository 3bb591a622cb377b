"""Integer weights of tokens, bit for bit as in csrc/common/weights.h, in plain torch."""

import torch
from torch import Tensor

from tokenburst.ref.philox import fused, philox4x32

UNIT = 2.0**40  # weight of a row's most likely token
LARGEST = torch.finfo(torch.float32).max
_EXP = (  # coefficients of `exp_fast` in csrc/common/math.h
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


def exp_fast(x: Tensor) -> Tensor:
    """e^x of float32 by the polynomial of csrc/common/math.h; 0 below -87.3."""
    inside = x > -87.3
    x = torch.where(inside, x, 0.0)
    n = (x * 1.442695041).round()
    r = fused(n, -0.693359375, x)
    r = fused(n, 2.12194440e-4, r)
    p = torch.full_like(r, _EXP[0])
    for c in _EXP[1:]:
        p = fused(p, r, torch.full_like(r, c))
    p = fused(p, r * r, r) + 1.0
    scale = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(inside, p * scale, 0.0)


def weigh(e: Tensor) -> Tensor:
    """round(e 2^40) as float64, which holds it exactly."""
    return (e.double() * UNIT).round()


def clean(logits: Tensor) -> Tensor:
    """float32 logits; NaN is -inf, +inf the largest float."""
    x = logits.float()
    return torch.where(x.isnan(), -torch.inf, x).clamp_max(LARGEST)


def inverse_temperature(t: float) -> float:
    """1 / t, rounded to float32 and kept finite."""
    return float((1.0 / torch.tensor(t, dtype=torch.float32)).clamp_max(LARGEST))


def softmax_weights(logits: Tensor, t: float) -> Tensor:
    """Weights [V] float64 of cleaned logits at a temperature; 0 = all on the first of the best."""
    if logits.numel() == 0 or logits.max() == -torch.inf:
        return torch.zeros_like(logits, dtype=torch.float64)
    if not t > 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double() * UNIT
    return weigh(exp_fast((logits - logits.max()) * inverse_temperature(t)))


def random_words(seed: int, c0: int, c1: int, c2: int, c3: int) -> list[int]:
    """Four Philox words of one counter."""
    key, *counter = (torch.tensor(_wrap(c)) for c in (seed, c0, c1, c2, c3))
    return [int(w) for w in philox4x32(key, tuple(counter))]


def _wrap(x: int) -> int:  # into int64
    return (x + 2**63) % 2**64 - 2**63


def uniform(words: list[int]) -> float:
    """In [0, 1), 53 bits."""
    return ((words[0] >> 5) * 2**26 + (words[1] >> 6)) * 2.0**-53


def random_below(total: int, words: list[int]) -> int:
    """In 0 ... total - 1."""
    return ((words[0] << 32 | words[1]) * total) >> 64


def pick(weights: Tensor, target: int) -> int:
    """The token in whose share of the cumulative weights `target` falls."""
    return int((weights.long().cumsum(0) > target).int().argmax())
