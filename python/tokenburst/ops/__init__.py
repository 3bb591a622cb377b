"""Public functions over `torch.ops.tokenburst.*`, one file per room."""

from tokenburst import _native  # registers the ops before anything below looks them up  # noqa: F401
from tokenburst.ops.attention import Attended, attn_sparse, attn_tree
from tokenburst.ops.ngram import NgramDraft, NgramMatch, ngram_draft, ngram_match, ngram_update_
from tokenburst.ops.recycle import recycle_draft, recycle_update_
from tokenburst.ops.sparsed import BlockMass, attn_block_mass, attn_select_blocks
from tokenburst.ops.tree import (
    AcceptedPath,
    BuiltTree,
    MergedTree,
    SampledPath,
    tree_append_,
    tree_build,
    tree_commit_kv_,
    tree_merge,
    tree_verify_greedy,
    tree_verify_sample,
)
from tokenburst.ops.unmask import Remasked, Unmasked, unmask_remask_, unmask_select_
from tokenburst.ops.vocab import (
    TopTokens,
    VocabDraws,
    VocabFiltered,
    VocabStats,
    vocab_filter,
    vocab_sample,
    vocab_stats,
    vocab_top,
)

__all__ = [
    "AcceptedPath",
    "Attended",
    "BlockMass",
    "BuiltTree",
    "MergedTree",
    "NgramDraft",
    "NgramMatch",
    "Remasked",
    "SampledPath",
    "TopTokens",
    "Unmasked",
    "VocabDraws",
    "VocabFiltered",
    "VocabStats",
    "attn_block_mass",
    "attn_select_blocks",
    "attn_sparse",
    "attn_tree",
    "ngram_draft",
    "ngram_match",
    "ngram_update_",
    "recycle_draft",
    "recycle_update_",
    "tree_append_",
    "tree_build",
    "tree_commit_kv_",
    "tree_merge",
    "tree_verify_greedy",
    "tree_verify_sample",
    "unmask_remask_",
    "unmask_select_",
    "vocab_filter",
    "vocab_sample",
    "vocab_stats",
    "vocab_top",
]
