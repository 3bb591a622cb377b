"""Policies: which proposals of a masked diffusion model to believe in a step."""

from tokenburst.decoders.unmasking.blockwise import Editing, llada2, sdar_dynamic
from tokenburst.decoders.unmasking.dream import Dimple, Dream, dream_schedule
from tokenburst.decoders.unmasking.ending import EndOfText
from tokenburst.decoders.unmasking.history import Credit, SlowFast, Stable
from tokenburst.decoders.unmasking.models import (
    ConfidenceFilter,
    Guided,
    JointSampling,
    Learned,
    Recorded,
)
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
from tokenburst.decoders.unmasking.prophet import Prophet
from tokenburst.decoders.unmasking.remask import RunningConfidence, SpanMasking
from tokenburst.decoders.unmasking.remdm import ReMDM
from tokenburst.decoders.unmasking.schedule import Ascending, EosDamping, LowConfidence
from tokenburst.decoders.unmasking.threshold import EntropyBudget, Factor, LocalLeap, Threshold
from tokenburst.decoders.unmasking.variants import FirstAlone, Tempered
from tokenburst.decoders.unmasking.wino import Wino

__all__ = [
    "RANKINGS",
    "Ascending",
    "ConfidenceFilter",
    "Credit",
    "Dimple",
    "Dream",
    "Editing",
    "EndOfText",
    "EntropyBudget",
    "EosDamping",
    "Factor",
    "FirstAlone",
    "Guided",
    "JointSampling",
    "Learned",
    "LocalLeap",
    "LowConfidence",
    "Needs",
    "Plan",
    "Process",
    "Prophet",
    "ReMDM",
    "Recorded",
    "Rule",
    "RunningConfidence",
    "SlowFast",
    "SpanMasking",
    "Stable",
    "Step",
    "Tempered",
    "Threshold",
    "Union",
    "Unmasking",
    "Wino",
    "check_count",
    "check_ranking",
    "dream_schedule",
    "llada2",
    "sdar_dynamic",
]
