"""From logits to statistics: what a token is drawn from, and in which precision it is judged."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.common import check_ids
from tokenburst.decoders.unmasking import Needs

NUMERICS = ("fp32", "bf16", "fp64")


@dataclass(frozen=True)
class Sampling:
    """How proposals are drawn and judged, beside the temperature.

    Args:
        top_p: keeps the most likely ids until their probability exceeds this; 1 = all.
        top_k: keeps so many, ties included; 0 = all.
        suppress: ids that are never proposed; the mask never is.
        bias: added to the logits of some ids, for example -2.0 for an end token.
        unranked: ids that may be proposed and then have confidence 0 (LLaDA's eos flags).
        numerics: of the scores. "fp32"; "bf16" rounds them as a softmax in bfloat16 does (LLaDA,
            Dream, Prophet, whose logits are bfloat16); "fp64" tells confidences apart that are 1 in
            float32 (Fast-dLLM).

    Raises:
        ValueError: values out of range.
    """

    top_p: float = 1.0
    top_k: int = 0
    suppress: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    unranked: tuple[int, ...] = ()
    numerics: str = "fp32"

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, expected: str) -> None:
            if not ok:
                raise ValueError(
                    f"Sampling: {name}: expected {expected}, got {getattr(self, name)!r}"
                )

        check(0 < self.top_p <= 1, "top_p", "> 0 and <= 1")
        check(isinstance(self.top_k, int) and self.top_k >= 0, "top_k", "an integer >= 0")
        check(all(map(math.isfinite, self.bias.values())), "bias", "finite numbers")
        check(self.numerics in NUMERICS, "numerics", f"one of {', '.join(NUMERICS)}")

    @property
    def filters(self) -> bool:
        """Whether plain statistics of the logits are not enough."""
        plain = self.top_p == 1 and self.top_k == 0 and not self.bias and not self.unranked
        return not plain or self.numerics == "fp64"


class Reader:
    """Statistics of rows of logits, as a policy needs them.

    Args:
        needs: of the policy.
        sampling: see there.
        heat: [B * R] float32 temperatures, 0 = greedy; None where all are.
        shape: (B, R).
        mask_id: never proposed.
        vocab_size: of the model.
        device: of the logits.
        guidance: [B] float32, weight of classifier-free guidance; None = none of it.

    Raises:
        ValueError: ids out of the vocabulary, or all of it suppressed.
    """

    def __init__(
        self,
        needs: Needs,
        sampling: Sampling,
        heat: Tensor | None,
        shape: tuple[int, int],
        mask_id: int,
        vocab_size: int,
        device: torch.device,
        guidance: Tensor | None = None,
    ) -> None:
        self.needs, self.sampling, self.shape = needs, sampling, shape
        self.k = min(needs.k, vocab_size)
        self.guidance = None if guidance is None else guidance.repeat_interleave(shape[1])
        count = shape[0] * shape[1]
        self.number = torch.arange(count, device=device)
        self.none = self.number.new_full((), -1)

        def ids(name: str, values: Any) -> Tensor:
            listed = torch.tensor(list(values), dtype=torch.int64, device=device)
            check_ids(name, listed, vocab_size)
            return listed

        def each(value: float) -> Tensor:
            return torch.full((count,), value, dtype=torch.float32, device=device)

        self.suppress = ids("suppress", {mask_id, *sampling.suppress})
        if len(self.suppress) == vocab_size:
            raise ValueError("Sampling: suppress: expected some id that may be proposed, got none")
        self.heat = heat
        self.filters = sampling.filters or (needs.tempered and heat is not None)
        self.options: dict[str, Any] = {}
        if sampling.bias:
            self.options["bias_ids"] = ids("bias", sampling.bias.keys())
            values = list(sampling.bias.values())
            self.options["bias"] = torch.tensor(values, dtype=torch.float32, device=device)
        if sampling.unranked:
            self.options["unranked"] = ids("unranked", sampling.unranked)
        if sampling.top_p < 1:
            self.options["top_p"] = each(sampling.top_p)
        if sampling.top_k > 0:
            self.options["top_k"] = torch.full_like(self.number, sampling.top_k)

    def read(
        self, logits: Tensor, seen: Tensor, rng: Tensor | None, unguided: Tensor | None = None
    ) -> tuple[ops.VocabStats, Tensor | None]:
        """Statistics of the rows that are seen. No tensor of the size of the logits is made.

        Args:
            logits: [B * R, V]; with guidance the guided ones are written in their place.
            seen: [B, R] bool.
            rng: [B, R, 4] int64, names of the draws; None where all temperatures are 0.
            unguided: [B * R, V], with guidance.

        Returns:
            Statistics [B, R], and log odds of the tokens [B, R] where confidences are told apart
            that are 1 in float32. `ids`, `values` and `lse` are before biases and temperature; they
            are empty, and NaN, where the policy does not look at them and more than one sweep would
            be needed.
        """
        options: dict[str, Any] = {"rows": torch.where(seen.flatten(), self.number, self.none)}
        options["suppress"] = self.suppress
        if self.heat is not None and rng is not None:
            options |= {"temperature": self.heat, "rng": rng.flatten(0, 1)}
        if unguided is not None and self.guidance is not None:
            weight = (self.guidance + 1).to(logits.dtype)[:, None]
            logits.sub_(unguided).mul_(weight).add_(unguided)  # one buffer, rounded as published
        odds = None
        if not self.filters:
            stats = ops.vocab_stats(logits, max(1, self.k), **options)
        else:
            drawn = ops.vocab_filter(
                logits, tempered=self.needs.tempered, **options, **self.options
            )
            stats = self._drawn(drawn, logits, options)
            if self.sampling.numerics == "fp64":
                odds = drawn.log_odds.view(self.shape)
        if self.sampling.numerics == "bf16":
            rounded = {
                name: getattr(stats, name).bfloat16().float()
                for name in ("confidence", "margin", "entropy")
            }
            stats = stats._replace(**rounded)
        return ops.VocabStats(*(t.view(*self.shape, *t.shape[1:]) for t in stats)), odds

    def _drawn(
        self, drawn: ops.VocabFiltered, logits: Tensor, options: dict[str, Any]
    ) -> ops.VocabStats:
        """What was drawn, with the best ids only where they are wanted."""
        found = {"token", "confidence", "margin", "entropy", "n_nan"}
        mine = {name: getattr(drawn, name) for name in found}
        if self.k > 0:
            plain = {name: options[name] for name in ("rows", "suppress")}
            return ops.vocab_stats(logits, self.k, **plain)._replace(**mine)
        none = drawn.confidence.new_empty(len(drawn.confidence), 0)
        lse = torch.full_like(drawn.confidence, torch.nan)
        return ops.VocabStats(ids=none.long(), values=none, lse=lse, **mine)


def look_up(logits: Tensor, shape: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A function from ids [B, R, K], -1 = none, to their logits in float32."""

    def logits_at(ids: Tensor) -> Tensor:
        found = logits.view(*shape, -1).gather(2, ids.clamp(min=0))
        return found.float().where(ids >= 0, -torch.inf)

    return logits_at
