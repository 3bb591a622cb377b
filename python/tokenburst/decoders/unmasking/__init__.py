"""Policies: which proposals of a masked diffusion model to believe in a step."""

from tokenburst.decoders.unmasking.policy import (
    RANKINGS,
    Needs,
    Plan,
    Process,
    Rule,
    Step,
    Union,
    Unmasking,
    check_count,
    check_ranking,
)
from tokenburst.decoders.unmasking.schedule import LowConfidence
from tokenburst.decoders.unmasking.threshold import Threshold

__all__ = [
    "RANKINGS",
    "LowConfidence",
    "Needs",
    "Plan",
    "Process",
    "Rule",
    "Step",
    "Threshold",
    "Union",
    "Unmasking",
    "check_count",
    "check_ranking",
]
