"""What makes a distribution of the target's logits: temperature, filters, penalty; and seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Numbers: TypeAlias = float | int | Sequence[float] | Sequence[int] | Tensor


@dataclass(frozen=True)
class RowChances:
    """One value for each sequence, on the device; None where it is off for all.

    Applied to every row of the target alike, in this order: repetition penalty, temperature, top-k,
    top-p, min-p.
    """

    temperature: Tensor  # [B] float32, 0 = greedy
    seed: Tensor  # [B] int64
    sequence: Tensor  # [B] int64, names of the sequences for chance
    filters: dict[str, Tensor]  # [B] each: top_k, top_p, min_p, repetition_penalty as they are on
    greedy: bool  # every temperature is 0

    @classmethod
    def of(
        cls,
        batch: int,
        device: torch.device,
        *,
        temperature: Numbers = 0.0,
        top_k: Numbers = 0,
        top_p: Numbers = 1.0,
        min_p: Numbers = 0.0,
        repetition_penalty: Numbers = 1.0,
        seed: Numbers = 0,
        sequence_ids: Numbers | None = None,
    ) -> "RowChances":
        """From scalars or one value per sequence.

        Raises:
            ValueError: a value out of range, or not as many values as sequences.
        """

        def rows(
            name: str,
            value: Numbers,
            dtype: torch.dtype,
            expected: str,
            holds: Callable[[Tensor], Tensor],
        ) -> Tensor:
            return per_row(name, value, batch, dtype, expected, holds).to(device)

        f32, i64 = torch.float32, torch.int64
        heat = rows("temperature", temperature, f32, "numbers >= 0", _finite_from(0.0))
        given = {
            "top_k": rows("top_k", top_k, i64, "integers >= 0 (0 = off)", lambda k: k >= 0),
            "top_p": rows("top_p", top_p, f32, "numbers in 0..1 (1 = off)", _in_unit),
            "min_p": rows("min_p", min_p, f32, "numbers in 0..1 (0 = off)", _in_unit),
            "repetition_penalty": rows(
                "repetition_penalty",
                repetition_penalty,
                f32,
                "numbers > 0 (1 = off)",
                lambda x: (x > 0) & x.isfinite(),
            ),
        }
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        return cls(
            temperature=heat,
            seed=rows("seed", seed, i64, "integers", torch.ones_like),
            sequence=torch.arange(batch, device=device)
            if sequence_ids is None
            else rows("sequence_ids", sequence_ids, i64, "integers", torch.ones_like),
            filters={name: x for name, x in given.items() if bool((x != off[name]).any())},
            greedy=not bool((heat > 0).any()),
        )


def per_row(
    name: str,
    value: Numbers,
    batch: int,
    dtype: torch.dtype,
    expected: str,
    holds: Callable[[Tensor], Tensor],
) -> Tensor:
    """[batch] values from one or `batch` of them; ValueError where `holds` is false."""
    given = torch.as_tensor(value)
    if given.dim() > 1 or (given.dim() == 1 and len(given) != batch):
        raise ValueError(
            f"generate: {name}: expected one value or {batch}, got shape {tuple(given.shape)}"
        )
    if given.is_floating_point() and not dtype.is_floating_point:
        raise ValueError(f"generate: {name}: expected {expected}, got {given.dtype}")
    values = given.to(dtype).expand(batch).contiguous()
    bad = values[~holds(values).bool()]
    if len(bad):
        raise ValueError(f"generate: {name}: expected {expected}, got {bad[0].item()}")
    return values


def _finite_from(least: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x >= least) & x.isfinite()


def _in_unit(x: Tensor) -> Tensor:
    return (x >= 0) & (x <= 1)


def seen_words(tokens: Tensor, lengths: Tensor, vocab_size: int) -> Tensor:
    """Bits [B, ceil(V / 32)] int32 of the first lengths[b] tokens [B, L]; id v is bit v % 32."""
    width = -(-vocab_size // 32) * 32
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    marks = torch.zeros(len(tokens), width + 1, dtype=torch.int64, device=tokens.device)
    marks.scatter_(1, tokens.where(real, width), 1)
    bits = marks[:, :width].view(len(tokens), -1, 32) << torch.arange(32, device=tokens.device)
    return bits.sum(-1).to(torch.int32)  # wraps, which sets bit 31


def mark_seen_(words: Tensor, tokens: Tensor, counts: Tensor) -> None:
    """Sets the bits of the first counts[b] of tokens [B, S] in words [B, ceil(V / 32)]."""
    column = torch.arange(tokens.shape[1], device=tokens.device)
    real = (column < counts[:, None]) & (tokens >= 0)
    word, shift = tokens.clamp(min=0) >> 5, tokens & 31
    known = (words.gather(1, word) >> shift) & 1
    repeated = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1)
    # Each new bit once: then the sum of bits is their union.
    bit = torch.where(real & (known == 0) & ~repeated, 1 << shift, 0).to(torch.int32)
    words.scatter_add_(1, word, bit)
