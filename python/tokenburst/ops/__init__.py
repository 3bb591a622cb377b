"""Public functions over `torch.ops.tokenburst.*`, one file per room."""

from tokenburst import _native  # registers the ops before anything below looks them up  # noqa: F401
from tokenburst.ops.tree import AcceptedPath, tree_verify_greedy
from tokenburst.ops.unmask import Unmasked, unmask_select_

__all__ = ["AcceptedPath", "Unmasked", "tree_verify_greedy", "unmask_select_"]
