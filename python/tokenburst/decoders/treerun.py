"""One batch through the steps of tree decoding: draft, score, verify, commit, learn."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.common import LateFlag, whole
from tokenburst.decoders.drafting import DeviceTree, Draft, Drafter, Observation
from tokenburst.decoders.plain import root_alone
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treetext import TreeText
from tokenburst.decoders.verifying import Verdict, verify_greedy
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


class TreeRun:
    """One call of generate: the state of a batch, all of it on the device."""

    def __init__(
        self,
        model: torch.nn.Module,
        drafter: Drafter,
        sizer: TreeSizer,
        text: TreeText,
        cache_length: int | None,
    ) -> None:
        self.model, self.drafter, self.sizer, self.text = model, drafter, sizer, text
        self.device = text.tokens.device
        batch, width = len(text.root), text.tokens.shape[1] - text.most - 1
        self.width = width
        self.seconds = dict.fromkeys(("prefill", "draft", "forward", "verify"), 0.0)
        largest = whole(drafter.most_nodes)
        needed = whole(width) + text.most + largest
        length = needed if cache_length is None else cache_length
        if length < needed:
            raise ValueError(
                f"generate: cache_length: expected >= {needed} (prompt {width}, new tokens "
                f"{text.most}, tree {largest}), got {length}"
            )
        self.cache = TreeCache(self.model.config, batch, length, self.model.dtype, self.device)
        self.paths: list[Tensor] = []
        self.tree: DeviceTree | None = None  # of the latest draft

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

    def verify(self, logits: Tensor, draft: Draft, count: Tensor, k: int) -> Verdict:
        """The part of the draft that the target would have written itself."""
        return verify_greedy(logits, draft, count, k, self.text.eos)

    def prefill(self) -> Tensor:
        """Scores the prompts and appends the first new token; returns hidden [B, P, hidden]."""
        start = time.perf_counter()
        text, batch = self.text, len(self.text.root)
        tokens = text.tokens[:, : self.width]
        tokens = torch.nn.functional.pad(tokens, (0, whole(self.width) - self.width))
        depth = torch.arange(tokens.shape[1], device=self.device)[None]
        hidden = self.forward(tokens, depth, TokenContext(self.cache.kv_len, text.start))
        last = (text.length.long() - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        alone = root_alone(batch, self.device)
        draft = self.padded(Draft(text.root[:, None], alone))
        first = self.logits(hidden.gather(1, last)[:, 0]).repeat_interleave(alone.nodes, 0)
        verdict = self.verify(first, draft, alone.count, 1)
        self.cache.kv_len += text.start
        text.append(verdict.next_token[:, None], verdict.n_accepted, verdict.next_token)
        self.seconds["prefill"] += time.perf_counter() - start
        return hidden

    def learn_prompt(self, hidden: Tensor, chunk: int = 128) -> None:
        """Shows the drafter the candidates after each prompt token, a chunk at a time."""
        text, batch, k = self.text, hidden.shape[0], self.drafter.candidates
        start = time.perf_counter()
        column = torch.arange(chunk, dtype=torch.int32, device=self.device)
        tree = DeviceTree.from_template(TreeTemplate.chain(chunk - 1), batch, self.device)
        for begin in range(0, self.width, chunk):
            part = hidden[:, begin : begin + chunk]
            stats = ops.vocab_stats(self.logits(part.reshape(-1, hidden.shape[2])), k)
            missing = chunk - part.shape[1]
            ids, values = (
                torch.nn.functional.pad(x.view(batch, -1, k), (0, 0, 0, missing))
                for x in (stats.ids, stats.values)
            )
            count = (text.start - begin).clamp(0, chunk)
            tokens = torch.nn.functional.pad(text.tokens[:, begin : begin + chunk], (0, missing))
            after = (begin + count).long().clamp(max=self.width)[:, None]
            seen = Observation(
                tokens=tokens[:, :chunk],
                tree=tree,
                count=count,
                start=torch.full_like(count, begin),
                ids=ids,
                values=values,
                path=torch.where(column < count[:, None], column, -1),
                n_accepted=count,
                next_token=text.tokens.gather(1, after)[:, 0],
            )
            self.drafter.observe(text, seen)
        self.seconds["prefill"] += time.perf_counter() - start

    def padded(self, draft: Draft) -> Draft:
        """With as many tokens as the tree has nodes."""
        missing = draft.tree.nodes - draft.tokens.shape[1]
        if missing == 0:
            return draft
        return draft._replace(tokens=torch.nn.functional.pad(draft.tokens, (0, missing), value=-1))

    def step(self) -> None:
        """One forward: a tree below each root is drafted, scored, verified and committed."""
        marks = [time.perf_counter()]
        text, cache = self.text, self.cache
        draft = self.padded(self.drafter.draft(text))
        tree = self.tree = draft.tree
        count = torch.where(text.active, tree.count, 0)
        marks.append(time.perf_counter())

        context = TokenContext(cache.kv_len, count, tree.ancestors)
        hidden = self.forward(draft.tokens, tree.depth, context)
        logits = self.logits(hidden.view(-1, hidden.shape[2]))
        marks.append(time.perf_counter())

        verdict = self.verify(logits, draft, count, self.drafter.candidates)
        path, n_accepted = verdict.path, verdict.n_accepted
        ops.tree_commit_kv_(cache.keys, cache.values, cache.kv_len, path, n_accepted)
        seen = Observation(
            tokens=draft.tokens,
            tree=tree,
            count=count,
            start=cache.kv_len,
            ids=verdict.ids,
            values=verdict.values,
            path=path,
            n_accepted=n_accepted,
            next_token=verdict.next_token,
        )
        self.drafter.observe(text, seen)
        if tree.template is not None and tree.nodes > 1:
            self.paths.append(path[:, : max(tree.template.depth) + 1])
        cache.kv_len += text.append(verdict.tokens, n_accepted, verdict.next_token)
        marks.append(time.perf_counter())
        for name, begin, end in zip(("draft", "forward", "verify"), marks, marks[1:], strict=False):
            self.seconds[name] += end - begin

    def measure(self, shape: TreeTemplate) -> float:
        """Seconds of one forward with this tree; the cache rows it writes are not committed."""
        tree = DeviceTree.from_template(shape, len(self.text.root), self.device)
        tokens = self.text.tokens[:, :1].expand(-1, tree.nodes)
        start = time.perf_counter()
        context = TokenContext(self.cache.kv_len, tree.count, tree.ancestors)
        hidden = self.forward(tokens, tree.depth, context)
        self.logits(hidden.view(-1, hidden.shape[2]))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def choose_tree(self, candidates: int) -> TreeTemplate:
        """The best tree of this many candidates per node, for this device, model and batch."""
        start = time.perf_counter()
        key = len(self.text.root), self.width
        shape = self.sizer.choose(candidates, key, self.measure)
        self.seconds["sizing"] = time.perf_counter() - start
        return shape

    def decode(
        self, callback: Callable[[Tensor, Tensor], None] | None
    ) -> tuple[Tensor, Tensor, TreeStats]:
        """New tokens [B, most], how many are real [B], and statistics."""
        start = time.perf_counter()
        text = self.text
        hidden = self.prefill()
        self.drafter.begin(text, self.choose_tree)
        if self.drafter.prefill:
            self.learn_prompt(hidden)
        del hidden
        forwards, finished = 1, LateFlag(self.device)
        # Each step gives at least one token, so the bound ends the loop even if the flag is late.
        while forwards < text.most and not finished(~text.active.any()):
            self.step()
            forwards += 1
            if callback is not None:
                callback(*text.new_tokens())
        tokens, counts = text.new_tokens()
        shape = self.tree.template if self.tree is not None else None
        by_depth = self.sizer.learn(shape, self.paths) if shape is not None else []
        stats = TreeStats(
            forwards=forwards,
            new_tokens=counts.tolist(),
            tree_nodes=self.drafter.most_nodes if shape is None else shape.nodes,
            accepted_by_depth=by_depth,
            seconds=time.perf_counter() - start,
            seconds_by_stage=self.seconds,
        )
        return tokens, counts, stats
