"""tokenburst: many tokens per forward pass."""

from tokenburst import ops
from tokenburst._native import __version__, build_info
from tokenburst.decoders.anyorder import MaskedAnyOrder
from tokenburst.decoders.anysubset import AnyOrderModel, AnySubsetDecoder, AnySubsetOutput
from tokenburst.decoders.caches import (
    BlockCausalCache,
    CachePolicy,
    DelayedCache,
    DualCache,
    FreeCache,
    GreedyCache,
    PrefixCache,
)
from tokenburst.decoders.diffusion import (
    DiffusionDecoder,
    DiffusionOutput,
    DiffusionStats,
    diffusion_generate,
)
from tokenburst.decoders.draftmodel import DraftModel
from tokenburst.decoders.dynamicshapes import Independent, StochasticBeam
from tokenburst.decoders.dyspec import DySpec
from tokenburst.decoders.lookup import PromptLookup
from tokenburst.decoders.merging import Merged
from tokenburst.decoders.online import OnlineTrainer, RejectionRecorder
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.recorder import AcceptanceRecorder
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.sequoia import SequoiaTable, sequoia_tree
from tokenburst.decoders.session import Session
from tokenburst.decoders.shapes import Branching, Chain, DraftShape, StaticTree
from tokenburst.decoders.sparsed import SparseD
from tokenburst.decoders.sparsedrun import SparseStats
from tokenburst.decoders.stand import Stand
from tokenburst.decoders.streaming import Deltas, Stream
from tokenburst.decoders.templates import TEMPLATES, TreeTemplate
from tokenburst.decoders.tree import TreeDecoder, TreeOutput
from tokenburst.decoders.treehook import token_recycling, tree_generate
from tokenburst.decoders.treestats import TreeStats
from tokenburst.decoders.unmasking import (
    Ascending,
    Credit,
    Dimple,
    Dream,
    Editing,
    EndOfText,
    EntropyBudget,
    EosDamping,
    Factor,
    FirstAlone,
    Guided,
    JointSampling,
    Learned,
    LocalLeap,
    LowConfidence,
    Prophet,
    ReMDM,
    RunningConfidence,
    SlowFast,
    SpanMasking,
    Stable,
    Tempered,
    Threshold,
    Unmasking,
    Wino,
    llada2,
    sdar_dynamic,
)
from tokenburst.decoders.voting import Vote, hex_vote
from tokenburst.models.diffusion import load_diffusion, load_tokenizer
from tokenburst.models.layouts import ntk_scale
from tokenburst.patterns import BlockPattern

__all__ = [
    "TEMPLATES",
    "AcceptanceRecorder",
    "AnyOrderModel",
    "AnySubsetDecoder",
    "AnySubsetOutput",
    "Ascending",
    "BlockCausalCache",
    "BlockPattern",
    "Branching",
    "CachePolicy",
    "Chain",
    "Credit",
    "DelayedCache",
    "Deltas",
    "DiffusionDecoder",
    "DiffusionOutput",
    "DiffusionStats",
    "Dimple",
    "DraftModel",
    "DraftShape",
    "Dream",
    "DualCache",
    "DySpec",
    "Editing",
    "EndOfText",
    "EntropyBudget",
    "EosDamping",
    "Factor",
    "FirstAlone",
    "FreeCache",
    "GreedyCache",
    "Guided",
    "Independent",
    "JointSampling",
    "Learned",
    "LocalLeap",
    "LowConfidence",
    "MaskedAnyOrder",
    "Merged",
    "OnlineTrainer",
    "PrefixCache",
    "PromptLookup",
    "Prophet",
    "ReMDM",
    "RejectionRecorder",
    "RunningConfidence",
    "Sampling",
    "SequoiaTable",
    "Session",
    "SlowFast",
    "SpanMasking",
    "SparseD",
    "SparseStats",
    "Stable",
    "Stand",
    "StaticTree",
    "StochasticBeam",
    "Stream",
    "Tempered",
    "Threshold",
    "TokenRecycling",
    "TreeDecoder",
    "TreeOutput",
    "TreeStats",
    "TreeTemplate",
    "Unmasking",
    "Vote",
    "Wino",
    "__version__",
    "build_info",
    "diffusion_generate",
    "hex_vote",
    "llada2",
    "load_diffusion",
    "load_tokenizer",
    "ntk_scale",
    "ops",
    "sdar_dynamic",
    "sequoia_tree",
    "token_recycling",
    "tree_generate",
]
