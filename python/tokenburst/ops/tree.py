"""Draft trees: build, verify, commit. Equivalent plain torch: `tokenburst.ref.tree`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AcceptedPath(NamedTuple):
    """What one verification decided, on the device of its inputs."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32: nodes in `path`, root included; 0 where n_nodes is 0
    next_token: Tensor  # [B] int64: the target's token after the path; -1 where n_nodes is 0


class SampledPath(NamedTuple):
    """What one stochastic verification decided, on the device of its inputs."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32: nodes in `path`, root included; 0 where n_nodes is 0
    next_token: Tensor  # [B] int64: the token after the path; -1 where there is none
    n_nan: Tensor  # [B] int32: NaN logits in the rows that were read


class BuiltTree(NamedTuple):
    """What follows from the parents of a tree, on their device."""

    depth: Tensor  # [B, N] int32: edges to the root, -1 at nodes >= n_nodes
    first_child: Tensor  # [B, N] int32: lowest child, -1 = none
    next_sibling: Tensor  # [B, N] int32: next higher child of the same parent, -1 = none
    ancestors: Tensor  # [B, N, ceil(N / 32)] int32 bits: node itself and the nodes above it


class MergedTree(NamedTuple):
    """Several drafts as one tree, on the device of its inputs."""

    tokens: Tensor  # [B, N] int64: as given, -1 at what is no node or repeats an earlier one
    parent: Tensor  # [B, N] int32: among the nodes that stay; 0 at what is no node
    node: Tensor  # [B, N] int32: the node that stands for each given one, -1 = none


def tree_build(parent: Tensor, n_nodes: Tensor) -> BuiltTree:
    """Depths, child and sibling links and ancestor bitmasks of draft trees.

    Bit j % 32 of word j / 32 in `ancestors[b, i]` is set where node j is i or an ancestor of i,
    which is what node i may see of the tree. Siblings are linked in node order. Nodes >= n_nodes
    have depth -1, no links and an empty mask. Equivalent to `tokenburst.ref.tree.tree_build`.

    Args:
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.
        n_nodes: [B] int32 or int64, nodes of each tree; 0 leaves the sequence out.

    Returns:
        `BuiltTree` with depth, first_child, next_sibling [B, N], ancestors [B, N, ceil(N / 32)].

    Raises:
        RuntimeError: wrong dtype, shape or device; more than 4096 nodes on a GPU; on the CPU also
            parents that are not topological and counts out of range. On a GPU a node with an
            impossible parent, or whose parent is no node, is no node itself.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4.2 (topology-aware causal mask).
    """
    return BuiltTree(*_tree_build(parent, n_nodes))


def tree_merge(tokens: Tensor, parent: Tensor) -> MergedTree:
    """Makes one node of all nodes that stand for the same text, so that siblings differ.

    Two nodes are the same where the tokens on their ways down from the root are; the first of them
    in node order stays, the children of the others hang on it. A negative token is no node, nor is
    anything below it; the root always is one. Equivalent to `tokenburst.ref.tree.tree_merge`.

    Args:
        tokens: [B, N] int32 or int64, token of each node, < 0 = no node.
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.

    Returns:
        `MergedTree` with tokens, parent, node [B, N].

    Raises:
        RuntimeError: wrong dtype, shape or device; more than 3072 nodes on a GPU; on the CPU also
            parents that are not topological. On a GPU a node with an impossible parent is none.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 3 (merge of token trees).
    """
    return MergedTree(*_tree_merge(tokens, parent))


def tree_verify_greedy(
    tokens: Tensor, argmax: Tensor, parent: Tensor, n_nodes: Tensor, *, eos: Tensor | None = None
) -> AcceptedPath:
    """Longest path of drafted tokens that greedy decoding would have written itself.

    A node is accepted when its token equals the target's argmax after its parent and the parent is
    accepted; the root is the last committed token and always accepted. The deepest accepted node
    wins, the lowest index on ties. Nothing is accepted below a drafted end-of-sequence token.
    Equivalent to `tokenburst.ref.tree.tree_verify_greedy`.

    Args:
        tokens: [B, N] int32 or int64, drafted token of each node; -1 is never accepted.
        argmax: [B, N] int32 or int64, the target's most likely token after each node; -1 = none. Or
            [B, N, K], of which the first counts, as `vocab_top` gives them.
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.
        n_nodes: [B] int32 or int64, nodes of each tree; 0 leaves the sequence out.
        eos: [E] int32 or int64, end-of-sequence ids.

    Returns:
        `AcceptedPath` with path [B, N], n_accepted [B], next_token [B].

    Raises:
        RuntimeError: wrong dtype, shape or device; on the CPU also parents that are not topological
            and counts out of range. On a GPU a node with an impossible parent is never accepted.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4.2 (greedy verification of a tree).
    """
    return AcceptedPath(*_tree_verify_greedy(tokens, argmax, parent, n_nodes, eos=eos))


def tree_verify_sample(
    tokens: Tensor,
    parent: Tensor,
    n_nodes: Tensor,
    logits: Tensor,
    mode: str,
    rng: Tensor,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    seen: Tensor | None = None,
    draft_logits: Tensor | None = None,
    draft_temperature: Tensor | None = None,
    draft_ids: Tensor | None = None,
    draft_probs: Tensor | None = None,
    draft_row: Tensor | None = None,
    draws: Tensor | None = None,
    eos: Tensor | None = None,
    epsilon: float = 0.09,
    delta: float = 0.3,
    group_size: int = 15,
    group_delta: float = 0.15,
) -> SampledPath:
    """A path of drafted tokens and the token after it, as sampling token by token would give them.

    Every row that is visited (those of the path) goes through repetition penalty, temperature,
    top-k, top-p and min-p as in transformers, tokens of equal logit ranked by id, exactly k kept.
    A temperature of 0 walks greedily in every mode.

    Modes. `walk`: draw from the target, go down where that token was drafted; needs no draft
    probabilities, and with one seed the text is the same whatever was drafted, as the draw at a
    position depends on (seed, sequence, position) and its row alone. `rrs`: recursive rejection,
    siblings drawn without replacement from their draft row. `rrs_wr`: the same for independent
    draws. `kseq`: K-SEQ for independent draws of one row. `block`: block verification of a chain.
    These have exactly the target's distribution. `lossy_typical` (Medusa) and `lossy_grouped`
    (GSD) do not: they accept more and change the distribution. Equivalent to
    `tokenburst.ref.tree.tree_verify_sample`.

    Args:
        tokens: [B, N] int32 or int64, drafted token of each node; -1 is never accepted. Siblings
            in the order in which they were drawn.
        parent: [B, N] int32 or int64, topological: -1 at node 0, otherwise 0 <= parent[i] < i.
        n_nodes: [B] int32 or int64, nodes of each tree; 0 leaves the sequence out. A tree of one
            node is plain sampling.
        logits: [B, N, V] float32, float16 or bfloat16, the target's after each node, any strides
            with a contiguous last dimension, V <= 2^22.
        mode: one of the names above.
        rng: [B, 3] int32 or int64, (seed, sequence, absolute position of the root).
        temperature: [B] float32, default 1.
        top_k: [B] int32 or int64, 0 = off.
        top_p: [B] float32, 1 = off.
        min_p: [B] float32, 0 = off.
        repetition_penalty: [B] float32, 1 = off; of the tokens in `seen` and on the path.
        seen: [B, ceil(V / 32)] int32 bits, token v is bit v % 32 of word v // 32.
        draft_logits: [B, R, V], the draft's logits in the rows from which nodes were drawn.
        draft_temperature: [B] float32 of the draft, default 1.
        draft_ids: [B, R, K] int32 or int64, -1 = none: sparse draft rows, instead of draft_logits.
        draft_probs: [B, R, K] float32, their probabilities; each row sums to 1.
        draft_row: [B, M], row from which a draw was made, -1 = the token was certain (not drawn).
            Default: the index of the parent node; certain where there are no draft rows.
        draws: [B, M] int32 or int64, node of each draw in draw order, -1 = none: where a merged
            tree has fewer nodes than draws. Default: every node is one draw, M = N.
        eos: [E] int32 or int64: nothing is accepted below a drafted end-of-sequence token.
        epsilon: of lossy_typical: accepted if p > min(epsilon, delta exp(-entropy)).
        delta: see epsilon.
        group_size: of lossy_grouped: tokens of a group, half of them more and half less probable,
            at most 65.
        group_delta: of lossy_grouped: how far their probabilities may differ.

    Returns:
        `SampledPath` with path [B, N], n_accepted, next_token, n_nan [B].

    Raises:
        RuntimeError: wrong dtype, shape or device, unknown mode, V of draft and target differ; on
            the CPU also trees that are not topological, block on a tree that is no chain,
            parameters out of range, draft probabilities that do not sum to 1 or give 0 to the
            drafted token. On a GPU a draw that its row cannot have made is not tried.

    Source: target walk and rrs_wr: Miao et al., SpecInfer, arXiv 2305.09781, section 4.3; rrs:
        Jeon et al., RSD, arXiv 2402.14160; kseq: Sun et al., SpecTr, arXiv 2310.15141; block: Sun
        et al., Block Verification, arXiv 2403.10444; lossy_typical: Cai et al., Medusa,
        arXiv 2401.10774; lossy_grouped: So et al., Grouped Speculative Decoding, arXiv 2508.07747.
    """
    return SampledPath(
        *_tree_verify_sample(
            tokens,
            parent,
            n_nodes,
            logits,
            mode,
            rng,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seen=seen,
            draft_logits=draft_logits,
            draft_temperature=draft_temperature,
            draft_ids=draft_ids,
            draft_probs=draft_probs,
            draft_row=draft_row,
            draws=draws,
            eos=eos,
            epsilon=epsilon,
            delta=delta,
            group_size=group_size,
            group_delta=group_delta,
        )
    )


def tree_append_(
    text: Tensor,
    length: Tensor,
    root: Tensor,
    active: Tensor,
    rng: Tensor,
    end: Tensor,
    tokens: Tensor,
    path: Tensor,
    n_accepted: Tensor,
    next_token: Tensor,
    *,
    eos: Tensor | None = None,
    kv_len: Tensor | None = None,
) -> Tensor:
    """Appends what a step decided to the text of each sequence, in place, and ends sequences.

    A step decides n_accepted[b] tokens: those drafted below the root on the path, then next_token.
    As many are written from length[b] on as fit before end[b] (and into the text), none after the
    first that is in `eos`; `length`, the last column of `rng`, a position, and `kv_len` grow by
    their number.
    A sequence whose text has ended or is full is no longer active; the others go on from
    next_token. Equivalent to `tokenburst.ref.tree.tree_append_`.

    Args:
        text: [B, L] int64, L contiguous; changed.
        length: [B] int32, contiguous; changed.
        root: [B] int64, contiguous, last token of each sequence that goes on; changed.
        active: [B] bool, contiguous; changed.
        rng: [B, 3] int64, contiguous; changed.
        end: [B] int32 or int64.
        tokens: [B, N] int32 or int64, as drafted.
        path: [B, N] int32 or int64, as the verifying ops write it.
        n_accepted: [B] int32 or int64, 0 leaves the text as it is.
        next_token: [B] int32 or int64.
        eos: [E] int32 or int64, ids that end a text.
        kv_len: [B] int32, contiguous, rows committed to a KV cache; changed.

    Returns:
        [B] int32, how many tokens were appended.

    Raises:
        RuntimeError: wrong dtype, shape, strides or device; on the CPU also a length outside
            0 .. L, n_accepted outside 0 .. N, or a path out of the tree. On a GPU nothing is
            written from such a length, and such a path gives -1.

    Source: Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv
        2211.17192, algorithm 1 (the prefix grows by the accepted guesses and one token).
    """
    return _tree_append_(
        *(text, length, root, active, rng, end, tokens, path, n_accepted, next_token),
        eos=eos,
        kv_len=kv_len,
    )


def tree_commit_kv_(
    k_caches: Sequence[Tensor],
    v_caches: Sequence[Tensor],
    kv_len: Tensor,
    path: Tensor,
    n_accepted: Tensor,
    *,
    page_table: Tensor | None = None,
) -> None:
    """Moves the accepted rows of every KV cache up to the committed ones, in place.

    In each sequence b, for j < n_accepted[b], row kv_len[b] + path[b, j] moves to kv_len[b] + j, in
    all heads of all caches; rows beyond are left over. `kv_len` is not advanced. Caches may differ
    in heads, width, dtype and strides; no two may share memory, and none may be expanded.
    Equivalent to `tokenburst.ref.tree.tree_commit_kv_`.

    Args:
        k_caches: one [B, H, S, D] float32, float16 or bfloat16 tensor per layer, D contiguous.
        v_caches: the same for the values.
        kv_len: [B] int32 or int64, rows committed before this step.
        path: [B, P] int32 or int64, accepted nodes ascending, as the verifying ops write them; what
            stands past n_accepted is not read.
        n_accepted: [B] int32 or int64, 0 leaves the sequence as it is.
        page_table: [B, P] int32; the caches are then [pages, H, page size, D], all with the same
            number of pages and page size, and row r of sequence b is row r % (page size) of page
            page_table[b, r // (page size)]. Pages that rows move to belong to one sequence only.

    Raises:
        RuntimeError: wrong dtype, shape or device, unequal numbers of layers; on the CPU also
            0 <= n_accepted <= P violated, a path that does not ascend from 0 on, or
            kv_len + path >= S, or pages that do not exist. On a GPU such rows do not move.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, section 4 (shared KV cache of a token tree).
    """
    _tree_commit_kv_(
        list(k_caches), list(v_caches), kv_len, path, n_accepted, page_table=page_table
    )


_tree_append_ = torch.ops.tokenburst.tree_append_.default
_tree_build = torch.ops.tokenburst.tree_build.default
_tree_commit_kv_ = torch.ops.tokenburst.tree_commit_kv_.default
_tree_merge = torch.ops.tokenburst.tree_merge.default
_tree_verify_greedy = torch.ops.tokenburst.tree_verify_greedy.default
_tree_verify_sample = torch.ops.tokenburst.tree_verify_sample.default


@torch.library.register_fake("tokenburst::tree_verify_greedy")
def _(tokens, argmax, parent, n_nodes, *, eos=None):
    batch, nodes = tokens.shape
    path = tokens.new_empty((batch, nodes), dtype=torch.int32)
    n_accepted = tokens.new_empty((batch,), dtype=torch.int32)
    return path, n_accepted, tokens.new_empty((batch,), dtype=torch.int64)


@torch.library.register_fake("tokenburst::tree_verify_sample")
def _(tokens, parent, n_nodes, logits, mode, rng, **kwargs):
    batch, nodes = tokens.shape
    path = tokens.new_empty((batch, nodes), dtype=torch.int32)
    n_accepted, n_nan = (tokens.new_empty((batch,), dtype=torch.int32) for _ in range(2))
    return path, n_accepted, tokens.new_empty((batch,), dtype=torch.int64), n_nan


@torch.library.register_fake("tokenburst::tree_build")
def _(parent, n_nodes):
    batch, nodes = parent.shape
    depth, first_child, next_sibling = (
        parent.new_empty((batch, nodes), dtype=torch.int32) for _ in range(3)
    )
    ancestors = parent.new_empty((batch, nodes, (nodes + 31) // 32), dtype=torch.int32)
    return depth, first_child, next_sibling, ancestors


@torch.library.register_fake("tokenburst::tree_merge")
def _(tokens, parent):
    merged = tokens.new_empty(tokens.shape, dtype=torch.int64)
    up, node = (tokens.new_empty(tokens.shape, dtype=torch.int32) for _ in range(2))
    return merged, up, node


@torch.library.register_fake("tokenburst::tree_append_")
def _(text, length, *args, eos=None, kv_len=None):
    return length.new_empty(length.shape)


@torch.library.register_fake("tokenburst::tree_commit_kv_")
def _(k_caches, v_caches, kv_len, path, n_accepted, *, page_table=None):
    return None
