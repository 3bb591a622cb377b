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
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.templates import TEMPLATES, TreeTemplate
from tokenburst.decoders.tree import TreeDecoder, TreeOutput, TreeStats, token_recycling
from tokenburst.decoders.unmasking import LowConfidence, Threshold, Unmasking
from tokenburst.models.diffusion import load_diffusion, load_tokenizer
from tokenburst.models.layouts import ntk_scale
from tokenburst.patterns import BlockPattern

__all__ = [
    "TEMPLATES",
    "BlockCausalCache",
    "BlockPattern",
    "CachePolicy",
    "DelayedCache",
    "DiffusionDecoder",
    "DiffusionOutput",
    "DiffusionStats",
    "DualCache",
    "FreeCache",
    "LowConfidence",
    "PrefixCache",
    "PromptLookup",
    "Threshold",
    "TokenRecycling",
    "TreeDecoder",
    "TreeOutput",
    "TreeStats",
    "TreeTemplate",
    "Unmasking",
    "__version__",
    "build_info",
    "diffusion_generate",
    "load_diffusion",
    "load_tokenizer",
    "ntk_scale",
    "ops",
    "token_recycling",
]
