"""Masks are revealed by chance, and tokens go back by chance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import Needs, Plan, Step, check_count, check_share
from tokenburst.decoders.unmasking.remask import divided, net


@dataclass(frozen=True)
class ReMDM:
    """Remasking diffusion: masks are revealed by chance, tokens go back by chance.

    Time falls from 1 to 0 in the steps of a block. With alpha(t) = 1 - t, a decided token becomes a
    mask again with probability sigma, at most sigma_max = min(1, (1 - alpha(s)) / alpha(t)), and a
    mask is revealed with (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)).

    Args:
        steps: of a whole generation, divided evenly among the blocks.
        mode: "cap" (sigma = min(eta, sigma_max)), "rescale" (eta sigma_max), "conf" (sigma_max
            times the softmax over decided tokens of minus their probability when written) or
            "loop": alpha rises to `alpha` until t = `on` and from there on after t = `off`, both
            without taking anything back; in between it stays while sigma = eta.
        eta: see `mode`; published are 0.008 for cap, 0.015 for rescale, 0.02 for loop.
        on, off, alpha: see "loop", where eta alpha <= 1 - alpha.

    Raises:
        ValueError: a count below 1, an unknown mode, numbers outside 0 .. 1, on <= off, an eta that
            takes back more than there are masks.

    Source: Wang et al., ReMDM, arXiv 2503.00307, and diffusion.py of its published code.
    """

    steps: int = 128
    mode: str = "cap"
    eta: float = 0.008
    on: float = 0.55
    off: float = 0.05
    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_count("ReMDM: steps", self.steps)
        check_share("ReMDM: eta", self.eta, zero=True)
        if self.mode not in ("cap", "rescale", "conf", "loop"):
            raise ValueError(
                f"ReMDM: mode: expected one of cap, rescale, conf, loop, got {self.mode!r}"
            )
        if not 0 < self.off < self.on < 1 or not 0 < self.alpha < 1:
            raise ValueError(
                "ReMDM: on: expected 0 < off < on < 1 and 0 < alpha < 1, "
                f"got {self.off}, {self.on} and {self.alpha}"
            )
        if self.mode == "loop" and self.eta * self.alpha > 1 - self.alpha:
            raise ValueError(
                f"ReMDM: eta: expected at most {(1 - self.alpha) / self.alpha:.4g} where "
                f"alpha = {self.alpha}, got {self.eta}"
            )

    @property
    def needs(self) -> Needs:
        return Needs(k=0, pauses=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return divided("ReMDM", self.steps, n_blocks)

    def begin(self, plan: Plan) -> "_Returning":
        for n_blocks in plan.n_blocks.unique().tolist():
            self.most_steps(1, n_blocks)
        return _Returning(self, plan)


class _Returning:
    def __init__(self, policy: ReMDM, plan: Plan) -> None:
        self.policy = policy
        batch, _, width = plan.places.shape
        self.written = torch.zeros(batch, width, device=plan.x.device)

    def loop(self, step: Tensor, each: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha(t), alpha(s) and sigma of "loop", [B, 1]; its formula is that of the phase of t."""
        policy, t = self.policy, 1 - step / each
        rises, ends = t > policy.on + 1e-9, t <= policy.off + 1e-9
        shares = []
        for time in (t, t - 1 / each):
            first = (1 - time) * (policy.alpha / (1 - policy.on))
            last = 1 - time * ((1 - policy.alpha) / policy.off)
            share = torch.where(rises, first, torch.where(ends, last, policy.alpha))
            shares.append(share.clamp(max=1))
        over = step + 1 >= each
        shares[1] = torch.where(over, 1.0, shares[1])
        return *shares, torch.where(rises | ends | over, 0.0, policy.eta)

    def select(self, step: Step) -> ops.Unmasked:
        each = self.policy.steps // step.n_blocks
        now, then = (((step.step + n) / each).clamp(max=1)[:, None] for n in (0, 1))  # alpha
        most = ((1 - then) / now.clamp(min=1e-9)).clamp(max=1)
        decided = (step.position >= 0) & ~step.masked
        sigma = (most * self.policy.eta).expand_as(self.written)
        revealed = sigma
        if self.policy.mode == "cap":
            sigma = revealed = most.clamp(max=self.policy.eta).expand_as(self.written)
        elif self.policy.mode == "conf":
            sigma = most * (-self.written).masked_fill(~decided, -torch.inf).softmax(1).nan_to_num()
            revealed = torch.zeros_like(sigma)
        elif self.policy.mode == "loop":
            now, then, back = self.loop(step.step.double()[:, None], each[:, None])
            sigma = revealed = back.expand_as(self.written)
        reveal = (then - (1 - revealed) * now) / (1 - now).clamp(min=1e-9)
        reveal = torch.where(then >= 1, 1.0, reveal)[:, 0]
        done = step.select(score=step.stats.confidence, rng=step.rng, reveal=reveal.float())
        self.written = torch.where(done.committed, step.stats.confidence, self.written)
        back = ops.unmask_remask_(
            step.x,
            step.position.where(decided, -1),
            step.mask_id,
            score=self.written,
            probability=sigma.float().contiguous(),
            rng=step.rng,
        )
        # Where everything is decided, later steps may still take something back.
        left = done.n_left + back.n_remasked
        revises = (self.policy.mode == "conf") | (self.policy.eta > 0)
        until = 1 - self.policy.off if self.policy.mode == "loop" else 1.0
        revises = revises & ((step.step + 1) / each < until) & step.active
        return net(done, back, torch.where(revises, left.clamp(min=1), left))
