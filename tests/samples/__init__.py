"""Hostile sample inputs of every op, read by the catalogue test, opcheck and the host executor.

A room's file holds `SAMPLES: dict[op name, list[Sample]]`; a new file joins by being imported here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Sample:
    """One call of an op; `make(device)` builds fresh arguments, so mutating ops can rerun."""

    id: str
    make: Callable[[torch.device], tuple[tuple[Any, ...], dict[str, Any]]]
    atol: float = 0.0  # 0 = bit for bit
    rtol: float = 0.0
    opcheck: bool = True  # some samples are too large to trace many times
    fields: dict[int, tuple[float, float]] = field(
        default_factory=dict
    )  # output index -> (atol, rtol)


from samples import attention, ngram, recycle, sparse, sparsed, tree, unmask, vocab  # noqa: E402

SAMPLES: dict[str, list[Sample]] = {
    **attention.SAMPLES,
    **ngram.SAMPLES,
    **recycle.SAMPLES,
    **sparse.SAMPLES,
    **sparsed.SAMPLES,
    **tree.SAMPLES,
    **unmask.SAMPLES,
    **vocab.SAMPLES,
}
