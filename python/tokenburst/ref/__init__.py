"""Every op once more in plain torch, with the signatures of `tokenburst.ops`: the specification."""

from tokenburst.ref import attention, ngram, philox, recycle, sparsed, tree, unmask, vocab

__all__ = ["attention", "ngram", "philox", "recycle", "sparsed", "tree", "unmask", "vocab"]
