"""tokenburst: many tokens per forward pass."""

from tokenburst import ops, ref
from tokenburst._native import __version__, build_info

__all__ = ["__version__", "build_info", "ops", "ref"]
