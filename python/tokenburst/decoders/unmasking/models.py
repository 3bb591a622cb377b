"""Policies that ask another network: a supervisor, a joint sampler, a learned filter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import (
    Needs,
    Plan,
    Step,
    check_count,
    check_share,
)

TEXTS = ("diffusion", "supervisor")


@dataclass(frozen=True)
class Guided:
    """A left-to-right model checks the draft: what it would have written itself is committed.

    Each step drafts all masks, the supervisor reads the draft in one forward, and the masks are
    committed from the left as long as its most likely token is the drafted one.

    Args:
        supervisor: a causal model of transformers with the same vocabulary.
        text: whose text comes out. "diffusion": where the first draft is refused it is committed
            all the same, so every token is the diffusion model's. "supervisor": the supervisor's
            token is written where it first disagrees, so the result is the supervisor's own greedy
            text and the diffusion model only drafts it.

    Raises:
        ValueError: an unknown text; a supervisor of another vocabulary.

    Source: FlashDLM, arXiv 2505.21467 (guided diffusion): the paper describes "diffusion", the
        published code does "supervisor".
    """

    supervisor: Any
    text: str = "diffusion"

    def __post_init__(self) -> None:
        if self.text not in TEXTS:
            raise ValueError(f"Guided: text: expected one of {', '.join(TEXTS)}, got {self.text!r}")

    @property
    def needs(self) -> Needs:
        return Needs(k=0, sequence=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> "_Supervised":
        size = self.supervisor.get_output_embeddings().weight.shape[0]
        if size != plan.vocab_size:
            raise ValueError(
                f"Guided: supervisor: expected a vocabulary of {plan.vocab_size}, got {size}"
            )
        return _Supervised(self)


class _Supervised:
    def __init__(self, policy: Guided) -> None:
        self.policy = policy

    def select(self, step: Step) -> ops.Unmasked:
        model, token, masked = self.policy.supervisor, step.stats.token, step.masked
        place = step.position.clamp(min=0)
        spare = step.x.shape[1]  # a column for what is no mask
        draft = torch.nn.functional.pad(step.x, (0, 1))
        draft = draft.scatter(1, place.where(masked, spare), token)[:, :-1]
        hidden = model.base_model(input_ids=draft, use_cache=False).last_hidden_state
        row = torch.arange(len(place), device=place.device)[:, None]
        logits = model.get_output_embeddings()(hidden[row, (place - 1).clamp(min=0)])
        logits[..., step.mask_id] = -torch.inf
        own = logits.argmax(-1)
        agreed = ((own == token) | ~masked).int().cumprod(1).bool()
        count = (agreed & masked).sum(1)
        if self.policy.text == "supervisor":
            token, count = token.where(agreed, own), count + 1
        order = {"score": step.position.float(), "lowest_first": True}
        return step.select(token=token, top_k=count.clamp(min=1), **order)


@dataclass(frozen=True)
class JointSampling:
    """Several tokens per forward, each drawn in knowledge of those before it.

    The first token of a step comes from the model. For each further one a small sampler moves the
    last hidden states, given the embeddings of what has been committed in this step, and the
    model's head reads them again.

    Args:
        sampler: f(hidden [B, R, D], embedded [B, R, D], position [B, R]) -> hidden [B, R, D], for
            the masks that the step began with. `embedded` is 0 where nothing has been committed in
            this step yet, `position` is -1 where there was no mask. It has to be trained for the
            model (`zoo.samplers.train`).
        tokens: per forward.

    Raises:
        ValueError: a count below 1.

    Source: ADJUST, approximate joint sampling, arXiv 2509.22738. Proposals are greedy.
    """

    sampler: Callable[[Tensor, Tensor, Tensor], Tensor]
    tokens: int = 4

    def __post_init__(self) -> None:
        check_count("JointSampling: tokens", self.tokens)

    @property
    def needs(self) -> Needs:
        return Needs(k=0, hidden=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return -(-n_masks // self.tokens)

    def begin(self, plan: Plan) -> "_Joint":
        return _Joint(self, plan.model)


class _Joint:
    def __init__(self, policy: JointSampling, model: Any) -> None:
        self.policy, self.model = policy, model

    def select(self, step: Step) -> ops.Unmasked:
        assert step.hidden is not None  # asked for
        one = torch.ones_like(step.step)
        done = step.select(score=step.stats.confidence, top_k=one)
        embed, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        suppress = torch.full((1,), step.mask_id, device=step.x.device)
        position = step.position.where(step.masked, -1)
        for _ in range(self.policy.tokens - 1):
            found = step.x.gather(1, step.position.clamp(min=0))
            embedded = embed(found) * done.committed[..., None]
            logits = head(self.policy.sampler(step.hidden, embedded, position))
            stats = ops.vocab_stats(logits.contiguous(), suppress=suppress)
            shape = step.position.shape
            more = step.select(
                token=stats.token.view(shape), score=stats.confidence.view(shape), top_k=one
            )
            done = more._replace(
                committed=done.committed | more.committed,
                n_committed=done.n_committed + more.n_committed,
            )
        return done


class ConfidenceFilter(nn.Module):
    """Which proposals of a block are final, from the confidences of all its positions.

    Args:
        width: positions of a block.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Sigmoid()
        )

    def forward(self, confidence: Tensor) -> Tensor:
        """[B, R] probabilities of being final, from confidences [B, R]; R <= width."""
        room = self.width - confidence.shape[1]
        padded = torch.nn.functional.pad(confidence, (0, room), value=1.0)
        return self.layers(padded)[:, : confidence.shape[1]]


@dataclass(frozen=True)
class Learned:
    """A trained filter says which proposals are final; the most confident one always is.

    Args:
        filter: f(confidence [B, R]) -> [B, R], for example a `ConfidenceFilter` that
            `zoo.filters.train` made for the model.
        threshold: of its output, exceeded.

    Raises:
        ValueError: a threshold outside 0 .. 1.

    Source: Learn2PD, "Learning to parallel decode".
    """

    filter: Callable[[Tensor], Tensor]
    threshold: float = 0.96

    def __post_init__(self) -> None:
        check_share("Learned: threshold", self.threshold)

    @property
    def needs(self) -> Needs:
        return Needs(k=0, decided=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> "_Filtered":
        width, most = plan.places.shape[2], getattr(self.filter, "width", None)
        if most is not None and width > most:
            raise ValueError(f"Learned: filter: expected a width of at least {width}, got {most}")
        return _Filtered(self)


class _Filtered:
    accepted: Tensor  # [B, R] bool: masks that the filter took in the last step

    def __init__(self, policy: Learned) -> None:
        self.policy = policy

    def select(self, step: Step) -> ops.Unmasked:
        confidence = torch.where(step.position >= 0, step.stats.confidence, 1.0)
        final = self.policy.filter(confidence).float()
        self.accepted = step.masked & (final > self.policy.threshold)
        best = confidence.masked_fill(~step.masked, -1.0).argmax(1, keepdim=True)
        final = final.scatter(1, best, torch.inf)
        bound = step.full(self.policy.threshold)
        return step.select(score=final, threshold=bound, strict=True)


@dataclass(frozen=True)
class Recorded:
    """Another policy, every step of which is kept: for training a filter.

    Args:
        policy: decodes.
        trace: gets (confidence, token, masked, position) of each step.
    """

    policy: Any
    trace: list

    @property
    def needs(self) -> Needs:
        return replace(self.policy.needs, decided=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.policy.most_steps(n_masks, n_blocks)

    def begin(self, plan: Plan) -> "_Recorder":
        return _Recorder(self.policy.begin(plan), self.trace)


class _Recorder:
    def __init__(self, process: Any, trace: list) -> None:
        self.process, self.trace = process, trace

    def select(self, step: Step) -> ops.Unmasked:
        confidence = torch.where(step.position >= 0, step.stats.confidence, 1.0)
        self.trace.append((confidence, step.stats.token, step.masked, step.position))
        return self.process.select(step)
