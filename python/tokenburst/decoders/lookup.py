"""Prompt lookup: what followed the last tokens when they stood in the text before."""

from typing import Any

import torch

from tokenburst import ops
from tokenburst.decoders.drafting import ChooseTree, DeviceTree, Draft, Drafter, DraftState
from tokenburst.decoders.templates import TreeTemplate

# Arguments of `ops.ngram_match` for each published rule.
SEMANTICS: dict[str, dict[str, Any]] = {
    "official": {"most": 3, "least": 1, "whole": True},
    "transformers": {"most": 2, "least": 1},
    "vllm": {"most": 3, "least": 1},
}


class PromptLookup(Drafter):
    """Drafts a chain: the tokens that stood behind an earlier occurrence of the last few.

    Args:
        k: tokens per draft.
        semantics: which published rule finds the occurrence: 'official' (n = 3, 2, 1, only where k
            tokens follow), 'transformers' (n = 2, 1) or 'vllm' (n = 3, 2, 1), the latter two with
            drafts that may be shorter. All take the earliest one.
        most, least: longest and shortest n instead of the rule's.
        latest: take the last occurrence instead of the first.

    Raises:
        ValueError: an unknown rule, k < 1, or no n between least and most.

    Source: Saxena, Prompt Lookup Decoding, github.com/apoorvumang/prompt-lookup-decoding.
    """

    def __init__(
        self,
        k: int = 10,
        semantics: str = "vllm",
        *,
        most: int | None = None,
        least: int | None = None,
        latest: bool = False,
    ) -> None:
        if semantics not in SEMANTICS:
            known = ", ".join(SEMANTICS)
            raise ValueError(f"PromptLookup: semantics: expected one of {known}, got {semantics!r}")
        if k < 1:
            raise ValueError(f"PromptLookup: k: expected >= 1, got {k}")
        given = {"most": most, "least": least}
        self._rule = SEMANTICS[semantics] | {n: v for n, v in given.items() if v is not None}
        self._rule["latest"] = latest
        if not 1 <= self._rule["least"] <= self._rule["most"]:
            raise ValueError(
                "PromptLookup: least, most: expected 1 <= least <= most, "
                f"got {self._rule['least']} and {self._rule['most']}"
            )
        self.k = k

    @property
    def most_nodes(self) -> int:
        return self.k + 1

    @property
    def most_depth(self) -> int:
        return self.k

    def begin(self, state: DraftState, choose_tree: ChooseTree) -> None:
        """Makes the chain."""
        chain = TreeTemplate.chain(self.k)
        self._tree = DeviceTree.from_template(chain, len(state.root), state.root.device)

    def draft(self, state: DraftState) -> Draft:
        """The looked-up chain; -1 behind its end."""
        found = ops.ngram_match(state.tokens, state.length, self.k, **self._rule)
        return Draft(torch.cat([state.root[:, None], found.draft], 1), self._tree)

    def keep(self, rows: torch.Tensor) -> None:
        """The same chain for fewer rows."""
        self._tree = self._tree.keep(rows)
