"""What of a draft is kept: the target's word on every node, and the path that follows it."""

from typing import NamedTuple

from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.drafting import LOSSLESS, Draft, DraftDistribution, Drafter
from tokenburst.decoders.treetext import TreeText

LOSSY = ("lossy_typical", "lossy_grouped")


def check_mode(mode: str | None, drafter: Drafter) -> str:
    """The mode as given or as the drafter names it.

    Raises:
        ValueError: no such mode, or one that is lossless but not for the guesses of this drafter.
    """
    mode = drafter.verification if mode is None else mode
    if mode not in LOSSLESS + LOSSY:
        known = ", ".join(LOSSLESS + LOSSY)
        raise ValueError(f"generate: verify: expected one of {known}, got {mode!r}")
    if mode in LOSSLESS and mode not in drafter.exact_modes:
        exact = ", ".join(drafter.exact_modes)
        raise ValueError(
            f"generate: verify: expected one of {exact}, which are exact for what "
            f"{type(drafter).__name__} drafts, got {mode!r}"
        )
    return mode


class Verdict(NamedTuple):
    """What one verification decided."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32
    next_token: Tensor  # [B] int64: the target's token after the path
    ids: Tensor  # [B, N, k] int64: the target's best tokens after each node
    values: Tensor  # [B, N, k] float32: their logits


def verify(
    logits: Tensor, draft: Draft, count: Tensor, k: int, text: TreeText, mode: str
) -> Verdict:
    """The path of a draft that stands, and the token after it.

    Args:
        logits: [B, N, V] after each node.
        draft: with tokens [B, N].
        count: [B] int32, nodes that count in each row.
        k: how many of the target's best tokens the drafter wants to see.
        text: what stands before the root, and how tokens are drawn.
        mode: of `tree_verify_sample`. Where nothing is drawn every lossless mode is the greedy one.
    """
    greedy = text.greedy and "repetition_penalty" not in text.filters and mode in LOSSLESS
    if greedy or k > 0:
        ids, values = ops.vocab_top(logits, max(1, k), count=count)
    else:
        ids = draft.tokens.new_empty((*draft.tokens.shape, 0))
        values = ids.float()
    if greedy:
        accepted = ops.tree_verify_greedy(
            draft.tokens, ids, draft.tree.parents, count, eos=text.eos
        )
        return Verdict(*accepted, ids, values)

    drafted = {} if draft.q is None or mode == "walk" else drawn_from(draft.q, mode)
    path, n_accepted, next_token, _ = ops.tree_verify_sample(
        draft.tokens,
        draft.tree.parents,
        count,
        logits,
        mode,
        text.rng,
        temperature=text.temperature,
        eos=text.eos,
        **text.filters,
        **drafted,
    )
    return Verdict(path, n_accepted, next_token, ids, values)


def drawn_from(q: DraftDistribution, mode: str) -> dict[str, Tensor]:
    """The arguments of `tree_verify_sample` that say what the guesses were drawn from."""
    given = {
        "draft_logits": q.logits,
        "draft_temperature": q.temperature,
        "draft_ids": q.ids,
        "draft_probs": q.probs,
        "draft_row": q.row,
        "draws": None if mode == "block" else q.draws,
    }
    return {name: x for name, x in given.items() if x is not None}
