"""Every op once more in plain torch, with the signatures of `tokenburst.ops`: the specification."""

from tokenburst.ref import attention, recycle, tree, unmask

__all__ = ["attention", "recycle", "tree", "unmask"]
