"""Public functions over `torch.ops.tokenburst.*`, one file per room."""

from tokenburst import _native  # registers the ops before anything below looks them up  # noqa: F401
from tokenburst.ops.attention import Attended, attn_tree
from tokenburst.ops.tree import AcceptedPath, tree_verify_greedy

__all__ = ["AcceptedPath", "Attended", "attn_tree", "tree_verify_greedy"]
