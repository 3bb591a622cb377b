"""Every op once more in plain torch: the written specification. Same names and signatures as `tokenburst.ops`."""

from tokenburst.ref import recycle, tree

__all__ = ["recycle", "tree"]
