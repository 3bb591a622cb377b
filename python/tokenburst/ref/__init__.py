"""Every op once more in plain torch: the written specification. Same names and signatures as `tokenburst.ops`."""

from tokenburst.ref import tree, unmask

__all__ = ["tree", "unmask"]
