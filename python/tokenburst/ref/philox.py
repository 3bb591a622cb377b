"""Counter-based random numbers and the two logarithms of Gumbel noise, bit for bit, in plain torch.

float32 arithmetic rounds once per operation as in the kernels. A fused multiply-add is formed in
float64, where the product is exact, and rounded twice; that differs from one rounding about once in
2^29 cases.
"""

import torch
from torch import Tensor

_LOG = (  # coefficients of `log_fast` in csrc/common/math.h, highest power first
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)


def _f32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def fused(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """a * b + c of float32 values, rounded to float32 at the end."""
    a, b, c = (x.double() if isinstance(x, Tensor) else _f32(x) for x in (a, b, c))
    return (a * b + c).float()


def philox4x32(key: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words of Philox4x32-10, each int64 in [0, 2^32).

    Args:
        key: int64, the 64-bit seed.
        counter: four int64 tensors whose low 32 bits count; everything broadcasts.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    low = 0xFFFFFFFF

    def multiply(m: int, x: Tensor) -> tuple[Tensor, Tensor]:  # high and low word of the product
        high = (m * (x >> 16) + (m * (x & 0xFFFF) >> 16)) >> 16
        return high & low, (m * x) & low  # int64 wraps, which leaves the low word right

    k0, k1 = key & low, (key >> 32) & low
    c0, c1, c2, c3 = (c & low for c in counter)
    for _ in range(10):
        high_a, low_a = multiply(0xD2511F53, c0)
        high_b, low_b = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def log_fast(x: Tensor) -> Tensor:
    """ln x of positive normal float32, by the polynomial of csrc/common/math.h."""
    bits = x.view(torch.int32)
    e = (bits >> 23) - 126
    m = ((bits & 0x7FFFFF) | 0x3F000000).view(torch.float32)  # [0.5, 1)
    small = m < 0.707106781
    m, e = torch.where(small, m + m, m), torch.where(small, e - 1, e)
    f = m - 1.0
    z = f * f
    p = torch.full_like(f, _LOG[0])
    for c in _LOG[1:]:
        p = fused(p, f, c)
    n = e.float()
    y = fused(n, -2.12194440e-4, f * z * p)
    y = fused(z, -0.5, y)
    return fused(n, 0.693359375, f + y)


def exponential(word: Tensor) -> Tensor:
    """Standard exponential noise of 32-bit words (int64): -ln U, U = 1 - (word + 1/2) / 2^32."""
    v = (word.float() + 0.5) * 2.0**-32
    y = 1.0 - v
    below = -(log_fast(y.clamp_min(0.25)) - ((y - 1.0) + v) / y.clamp_min(0.25))
    above = -log_fast(((word ^ 0xFFFFFFFF).float() + 0.5) * 2.0**-32)
    return torch.where(word < 0x80000000, below, above)


def gumbel(word: Tensor) -> Tensor:
    """Standard Gumbel noise of 32-bit words (int64): -ln(-ln U)."""
    return -log_fast(exponential(word))
