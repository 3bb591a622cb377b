"""One batch through the steps of tree decoding: draft, score, verify, commit, learn."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.autotree import SIZES, TreeSizer
from tokenburst.decoders.common import LateFlag, whole
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.models.attention import TokenContext
from tokenburst.models.cache import TreeCache


@dataclass
class TreeStats:
    """What a generation cost and gained. `tokens_per_forward` counts the prefill as a forward."""

    forwards: int
    new_tokens: list[int]  # per sequence
    tree_nodes: int  # nodes of the tree, root included
    accepted_by_depth: list[float]  # share of steps whose path reached depth 1, 2, ...
    seconds: float
    seconds_by_stage: dict[str, float]  # prefill, draft, forward, verify (CPU time of the calls)

    @property
    def tokens_per_forward(self) -> float:
        """Mean over the sequences of tokens per forward."""
        return sum(self.new_tokens) / max(1, len(self.new_tokens)) / max(1, self.forwards)


class DeviceTree:
    """A template as device tensors for a batch, padded to whole groups of rows."""

    def __init__(self, shape: TreeTemplate, batch: int, device: torch.device) -> None:
        pad = whole(shape.nodes) - shape.nodes
        self.template = shape
        self.nodes = shape.nodes + pad
        self.rank = torch.tensor(shape.rank, dtype=torch.int32, device=device)
        padded = torch.tensor(shape.parent + (0,) * pad, dtype=torch.int32, device=device)
        self.parent = padded[: shape.nodes]
        self.parents = padded.expand(batch, -1).contiguous()
        self.count = torch.full((batch,), shape.nodes, dtype=torch.int32, device=device)
        depth, _, _, self.ancestors = ops.tree_build(self.parents, self.count)
        self.depth = depth.clamp_(min=0)


class TreeRun:
    """One call of generate: the state of a batch, all of it on the device."""

    def __init__(
        self,
        model: torch.nn.Module,
        drafter: TokenRecycling | None,
        sizer: TreeSizer,
        prompt: Tensor,  # [B, P] int64, packed to the left
        lengths: Tensor,  # [B] int32
        max_new_tokens: int,
        eos: list[int],
        cache_length: int | None,
    ) -> None:
        self.model, self.drafter, self.sizer = model, drafter, sizer
        self.device = prompt.device
        batch, width = prompt.shape
        self.prompt, self.lengths, self.limit = prompt, lengths, max_new_tokens
        self.eos = torch.tensor(eos, dtype=torch.int64, device=self.device)
        self.seconds = dict.fromkeys(("prefill", "draft", "forward", "verify"), 0.0)

        fixed = TreeTemplate.chain(0) if self.drafter is None else self.drafter.tree
        self.shape = None if isinstance(fixed, str) else fixed  # None: chosen after the prefill
        largest = whole(max(SIZES) if self.shape is None else self.shape.nodes)
        needed = whole(width) + max_new_tokens + largest
        length = needed if cache_length is None else cache_length
        if length < needed:
            raise ValueError(
                f"generate: cache_length: expected >= {needed} (prompt {width}, new tokens "
                f"{max_new_tokens}, tree {largest}), got {length}"
            )
        self.cache = TreeCache(self.model.config, batch, length, self.model.dtype, self.device)
        # One spare column takes what lies past the end of a sequence.
        self.out = torch.zeros(batch, max_new_tokens + 1, dtype=torch.int64, device=self.device)
        self.n_out = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self.active = torch.ones(batch, dtype=torch.bool, device=self.device)
        self.column = torch.arange(largest, device=self.device)
        self.paths: list[Tensor] = []

    def forward(self, tokens: Tensor, depth: Tensor, context: TokenContext) -> Tensor:
        """Hidden states [B, N, hidden] of tokens at positions kv_len + depth."""
        self.cache.place(tokens.shape[1])
        positions = self.cache.kv_len[:, None].to(torch.int64) + depth
        return self.model.base_model(
            input_ids=tokens.clamp(min=0),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            token_context=context,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, V] of hidden rows [R, hidden]."""
        rows = hidden.shape[0]
        if rows != whole(rows):
            hidden = torch.cat([hidden, hidden[:1].expand(whole(rows) - rows, -1)])
        return self.model.get_output_embeddings()(hidden)[:rows]

    def emit(self, tokens: Tensor, counts: Tensor) -> None:
        """Append the first counts[b] of tokens [B, S]; end sequences at eos or at the limit."""
        column = self.column[: tokens.shape[1]]
        kept = column < counts[:, None]
        if len(self.eos):
            ends = kept & torch.isin(tokens, self.eos)
            kept &= ends.cumsum(1) - ends.long() == 0  # nothing after the first eos
            counts = kept.sum(1)
            self.active &= ~ends.any(1)
        place = torch.where(kept, self.n_out[:, None] + column, self.limit).clamp_(max=self.limit)
        self.out.scatter_(1, place, tokens)
        self.n_out = (self.n_out + counts).clamp_(max=self.limit)
        self.active &= self.n_out < self.limit

    def prefill(self) -> Tensor:
        """Scores the prompt; returns the first new token [B] of each sequence."""
        start = time.perf_counter()
        width = self.prompt.shape[1]
        tokens = torch.nn.functional.pad(self.prompt, (0, whole(width) - width))
        depth = torch.arange(tokens.shape[1], device=self.device)[None]
        context = TokenContext(self.cache.kv_len, self.lengths)
        hidden = self.forward(tokens, depth, context)
        last = (self.lengths.to(torch.int64) - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        logits = self.logits(hidden.gather(1, last)[:, 0])
        root = ops.vocab_stats(logits, 1).token
        if self.drafter is not None and self.drafter.prefill:
            self.learn_prompt(self.drafter, hidden)
        self.cache.kv_len += self.lengths
        self.emit(root[:, None], torch.ones_like(self.n_out))
        self.seconds["prefill"] += time.perf_counter() - start
        return root

    def learn_prompt(self, drafter: TokenRecycling, hidden: Tensor, chunk: int = 128) -> None:
        """Shows the drafter the candidates after each prompt token, a chunk at a time."""
        batch = hidden.shape[0]
        for begin in range(0, self.prompt.shape[1], chunk):
            part = hidden[:, begin : begin + chunk]
            rows = self.logits(part.reshape(-1, hidden.shape[2]))
            ids = ops.vocab_stats(rows, drafter.candidates).ids.view(batch, -1, drafter.candidates)
            tokens = self.prompt[:, begin : begin + chunk]
            count = (self.lengths - begin).clamp(0, tokens.shape[1])
            drafter.observe(tokens, ids[:, : tokens.shape[1]], count)

    def step(self, root: Tensor, tree: DeviceTree) -> Tensor:
        """One forward: the tree below `root` [B] is drafted, scored, verified and committed."""
        marks = [time.perf_counter()]
        batch = root.shape[0]
        tokens = root[:, None]
        if self.drafter is not None:
            tokens = self.drafter.draft(root, tree.parent, tree.rank)
        tokens = torch.nn.functional.pad(tokens, (0, tree.nodes - tokens.shape[1]), value=-1)
        count = torch.where(self.active, tree.count, 0)
        marks.append(time.perf_counter())

        hidden = self.forward(
            tokens, tree.depth, TokenContext(self.cache.kv_len, count, tree.ancestors)
        )
        logits = self.logits(hidden.view(-1, hidden.shape[2]))
        marks.append(time.perf_counter())

        k = 1 if self.drafter is None else self.drafter.candidates
        ids = ops.vocab_stats(logits, k).ids.view(batch, tree.nodes, k)
        target = ids[:, :, 0]
        accepted = ops.tree_verify_greedy(tokens, target, tree.parents, count, eos=self.eos)
        ops.tree_commit_kv_(
            self.cache.keys,
            self.cache.values,
            self.cache.kv_len,
            accepted.path,
            accepted.n_accepted,
        )
        if self.drafter is not None:
            self.drafter.observe(tokens, ids, count)
            self.paths.append(accepted.path[:, : max(tree.template.depth) + 1])
        self.cache.kv_len += accepted.n_accepted
        # An accepted node's target is the next node's token or, at the end, the token beyond.
        self.emit(target.gather(1, accepted.path.clamp(min=0).long()), accepted.n_accepted)
        marks.append(time.perf_counter())
        for name, begin, end in zip(("draft", "forward", "verify"), marks, marks[1:], strict=False):
            self.seconds[name] += end - begin
        return torch.where(self.active, accepted.next_token, root)

    def measure(self, shape: TreeTemplate) -> float:
        """Seconds of one forward with this tree; the cache rows it writes are not committed."""
        tree = DeviceTree(shape, len(self.prompt), self.device)
        tokens = self.prompt[:, :1].expand(-1, tree.nodes)
        start = time.perf_counter()
        hidden = self.forward(
            tokens, tree.depth, TokenContext(self.cache.kv_len, tree.count, tree.ancestors)
        )
        self.logits(hidden.view(-1, hidden.shape[2]))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def decode(
        self, callback: Callable[[Tensor, Tensor], None] | None
    ) -> tuple[Tensor, Tensor, TreeStats]:
        """New tokens [B, max_new_tokens], how many are real [B], and statistics."""
        start = time.perf_counter()
        root = self.prefill()
        shape = self.shape or TreeTemplate.chain(0)
        if self.shape is None and self.drafter is not None:
            batch, width = self.prompt.shape
            shape = self.sizer.choose(self.drafter.candidates, (batch, width), self.measure)
            self.seconds["sizing"] = time.perf_counter() - start - self.seconds["prefill"]
        tree = DeviceTree(shape, root.shape[0], self.device)
        forwards, finished = 1, LateFlag(self.device)
        # Each step gives at least one token, so the bound ends the loop even if the flag is late.
        while forwards < self.limit and not finished(~self.active.any()):
            root = self.step(root, tree)
            forwards += 1
            if callback is not None:
                callback(self.out[:, : self.limit], self.n_out)
        by_depth = self.sizer.learn(shape, self.paths)
        stats = TreeStats(
            forwards=forwards,
            new_tokens=self.n_out.tolist(),
            tree_nodes=shape.nodes,
            accepted_by_depth=by_depth,
            seconds=time.perf_counter() - start,
            seconds_by_stage=self.seconds,
        )
        return self.out[:, : self.limit], self.n_out, stats
