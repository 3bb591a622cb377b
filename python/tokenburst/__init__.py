"""tokenburst: many tokens per forward pass."""

from tokenburst import ops
from tokenburst._native import __version__, build_info
from tokenburst.decoders.caches import (
    BlockCausalCache,
    CachePolicy,
    DelayedCache,
    DualCache,
    FreeCache,
    PrefixCache,
)
from tokenburst.decoders.diffusion import (
    DiffusionDecoder,
    DiffusionOutput,
    DiffusionStats,
    diffusion_generate,
)
from tokenburst.decoders.lookup import PromptLookup
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.session import Session
from tokenburst.decoders.sparsed import SparseD
from tokenburst.decoders.sparsedrun import SparseStats
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
    EntropyBudget,
    EosDamping,
    Factor,
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
    Threshold,
    Unmasking,
    llada2,
    sdar_dynamic,
)
from tokenburst.decoders.voting import Vote, hex_vote
from tokenburst.models.diffusion import load_diffusion, load_tokenizer
from tokenburst.models.layouts import ntk_scale
from tokenburst.patterns import BlockPattern

__all__ = [
    "TEMPLATES",
    "Ascending",
    "BlockCausalCache",
    "BlockPattern",
    "CachePolicy",
    "Credit",
    "DelayedCache",
    "Deltas",
    "DiffusionDecoder",
    "DiffusionOutput",
    "DiffusionStats",
    "Dimple",
    "Dream",
    "DualCache",
    "Editing",
    "EntropyBudget",
    "EosDamping",
    "Factor",
    "FreeCache",
    "Guided",
    "JointSampling",
    "Learned",
    "LocalLeap",
    "LowConfidence",
    "PrefixCache",
    "PromptLookup",
    "Prophet",
    "ReMDM",
    "RunningConfidence",
    "Sampling",
    "Session",
    "SlowFast",
    "SpanMasking",
    "SparseD",
    "SparseStats",
    "Stable",
    "Stream",
    "Threshold",
    "TokenRecycling",
    "TreeDecoder",
    "TreeOutput",
    "TreeStats",
    "TreeTemplate",
    "Unmasking",
    "Vote",
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
    "token_recycling",
    "tree_generate",
]
