"""Steps made by hand: a policy against an oracle, without a model."""

import torch
from hypothesis import strategies as st

from tokenburst import ops
from tokenburst.decoders.unmasking import Plan, Step

MASK = 9
# Few values, so that there are ties; the ends, so that everything may be saturated or hopeless.
SCORES = (0.0, 1e-6, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.999, 1.0)


@st.composite
def confidences(draw, most=12):
    """Scores of one block and which of its positions are masks: all, some, one or none."""
    scores = draw(st.lists(st.sampled_from(SCORES), min_size=1, max_size=most))
    if draw(st.booleans()):
        scores = [draw(st.sampled_from(SCORES))] * len(scores)
    masked = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    return scores, draw(st.sampled_from([masked, [True] * len(scores), [False] * len(scores)]))


def make_plan(n, n_blocks=1, batch=1):
    x = torch.full((batch, n), MASK)
    places = torch.arange(n).view(1, n_blocks, -1).expand(batch, -1, -1)
    return Plan(x, places, torch.full((batch,), n_blocks), MASK, MASK + 1, None)


def make_step(scores, masked, step=0, n_masks=None, **changes):
    """One sequence of one block; every score is its position's confidence, margin and entropy."""
    n = len(scores)
    score = torch.tensor([scores], dtype=torch.float32)
    masks = torch.tensor([masked])
    x = torch.where(masks, MASK, 3)
    token = torch.arange(n)[None] % 8
    values = torch.stack([score.log(), (1 - score).log()], 2)
    stats = ops.VocabStats(
        ids=torch.stack([token, (token + 1) % 8], 2),
        values=values,
        lse=torch.zeros_like(score),
        token=token,
        confidence=score,
        margin=score,
        entropy=score,
        n_nan=torch.zeros_like(token, dtype=torch.int32),
    )
    fields = {
        "x": x,
        "position": torch.arange(n)[None],
        "masked": masks,
        "current": torch.ones_like(masks),
        "active": torch.tensor([True]),
        "stats": stats,
        "step": torch.tensor([step]),
        "n_masks": torch.tensor([n if n_masks is None else n_masks]),
        "block": torch.tensor([0]),
        "n_blocks": torch.tensor([1]),
        "rng": torch.tensor([[1, 0, step]]),
        "mask_id": MASK,
        "logits_at": lambda ids: torch.zeros(ids.shape),
    }
    return Step(**(fields | changes))


def chosen(policy, scores, masked, **options):
    """Positions that a policy commits in one step, and what it says of it."""
    step = make_step(scores, masked, **options)
    before = step.x.clone()
    done = policy.begin(make_plan(len(scores))).select(step)
    changed = (step.x != before)[0].nonzero()[:, 0].tolist()
    assert not bool((step.x[0, changed] == MASK).any())
    assert int(done.n_left) == int((step.x == MASK).sum())
    assert int(done.n_committed) == sum(masked[i] for i in changed)
    return set(changed)
