"""tokenburst: many tokens per forward pass."""

from tokenburst import ops, ref
from tokenburst._native import __version__, build_info
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.templates import TEMPLATES, TreeTemplate
from tokenburst.decoders.tree import TreeDecoder, TreeOutput, TreeStats, token_recycling

__all__ = [
    "TEMPLATES",
    "TokenRecycling",
    "TreeDecoder",
    "TreeOutput",
    "TreeStats",
    "TreeTemplate",
    "__version__",
    "build_info",
    "ops",
    "ref",
    "token_recycling",
]
