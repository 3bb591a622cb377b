"""Greedy decoding with draft trees: draft, score, verify, commit, learn. The output is that of plain greedy decoding."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from tokenburst import ops
from tokenburst.decoders.autotree import SIZES, TreeSizer
from tokenburst.decoders.common import LateFlag, check_ids, pack_prompts
from tokenburst.decoders.hooks import check_generation, new_token_limit, refuse_unknown
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.models.attention import TokenContext, installed
from tokenburst.models.cache import TreeCache

# fp32 matrix products round by the class of their row count, {1}, {2, 3} or {4, ...}; every forward is of the last.
ROW_CLASS = 4


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


@dataclass
class TreeOutput(ModelOutput):
    """sequences [B, P + max_new_tokens] int64: the prompt as given, the new tokens, then padding."""

    sequences: Tensor | None = None
    stats: TreeStats | None = None


class _Tree:
    """A template as device tensors for a batch, padded to the row class."""

    def __init__(self, shape: TreeTemplate, batch: int, device: torch.device) -> None:
        pad = max(0, -(-ROW_CLASS // max(1, batch)) - shape.nodes)
        self.template = shape
        make = lambda values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
        self.parent, self.rank = make(shape.parent), make(shape.rank)
        self.nodes = shape.nodes + pad
        parents = make(shape.parent + (0,) * pad).expand(batch, -1).contiguous()
        self.count = torch.full((batch,), shape.nodes, dtype=torch.int32, device=device)
        self.parents = parents
        depth, _, _, self.ancestors = ops.tree_build(parents, self.count)
        self.depth = depth.clamp_(min=0)
        rows = torch.arange(batch * self.nodes, device=device).view(batch, self.nodes)
        self.rows = rows[:, : shape.nodes].reshape(-1)


class TreeDecoder:
    """Decodes with a causal language model of transformers, many tokens per forward.

    Args:
        model: a stock Llama, Qwen2 or Qwen3 model for causal language modelling.
        drafter: what fills the tree; None decodes plainly, one token per forward, through the same kernels.

    Raises:
        ValueError: a model of no supported architecture.
    """

    def __init__(self, model: torch.nn.Module, drafter: TokenRecycling | None = None) -> None:
        self._installed = installed(model)
        self.model, self.drafter = model, drafter
        self._sizer = TreeSizer()

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 128,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        cache_length: int | None = None,
        callback: Callable[[Tensor, Tensor], None] | None = None,
    ) -> TreeOutput:
        """Greedy continuation of each prompt; each row is decoded as if it were alone.

        Args:
            input_ids: [B, P] int64, padded on either side.
            attention_mask: [B, P], non-zero at real tokens; None = all are real.
            max_new_tokens: most new tokens per sequence.
            eos_token_id: ids that end a sequence; default: the model's generation config.
            pad_token_id: fills ended sequences; default: the model's, else the first eos id, else 0.
            cache_length: rows of the KV cache per sequence; default: as many as needed.
            callback: called after each step with the new tokens so far [B, ...] and their number
                [B], both device tensors that change with the next step.

        Returns:
            `TreeOutput` with sequences [B, P + longest] int64 and statistics.

        Raises:
            ValueError: wrong shapes or dtypes, ids outside the vocabulary, an empty prompt, or a
                cache that is too small.
        """
        if max_new_tokens < 0:
            raise ValueError(f"generate: max_new_tokens: expected >= 0, got {max_new_tokens}")
        model = self.model
        vocab_size = model.get_output_embeddings().weight.shape[0]
        eos, pad = end_tokens(model, eos_token_id, pad_token_id)
        check_ids("input_ids", input_ids, vocab_size)
        check_ids("eos_token_id", torch.tensor(eos), vocab_size)
        given = input_ids.to(model.device)
        prompt, lengths = pack_prompts(given, attention_mask)
        if len(given) == 0 or max_new_tokens == 0:
            return TreeOutput(sequences=given, stats=TreeStats(0, [0] * len(given), 1, [], 0.0, {}))
        with self._installed:
            run = _Run(self, prompt, lengths, max_new_tokens, eos, cache_length)
            new_tokens, counts, stats = run.decode(callback)
        new_tokens = new_tokens[:, : int(counts.max())]
        column = torch.arange(new_tokens.shape[1], device=new_tokens.device)
        new_tokens = new_tokens.masked_fill(column >= counts[:, None], pad)
        return TreeOutput(sequences=torch.cat([given, new_tokens], dim=1), stats=stats)


class _Run:
    """One call of generate: the state of a batch, all of it on the device."""

    def __init__(self, decoder, prompt, lengths, max_new_tokens, eos, cache_length) -> None:
        self.model, self.drafter = decoder.model, decoder.drafter
        self.sizer, self.device = decoder._sizer, prompt.device
        batch, width = prompt.shape
        self.prompt, self.lengths, self.limit = prompt, lengths, max_new_tokens
        self.eos = torch.tensor(eos, dtype=torch.int64, device=self.device)
        self.vocab_size = self.model.get_output_embeddings().weight.shape[0]
        self.seconds = dict.fromkeys(("prefill", "draft", "forward", "verify"), 0.0)

        fixed = TreeTemplate.chain(0) if self.drafter is None else self.drafter.tree
        self.shape = None if isinstance(fixed, str) else fixed  # None: chosen after the prefill
        largest = max(ROW_CLASS, max(SIZES) if self.shape is None else self.shape.nodes)
        needed = max(width, ROW_CLASS) + max_new_tokens + largest
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
        """[R, V] of hidden rows [R, hidden], in the row class."""
        missing = max(0, ROW_CLASS - hidden.shape[0])
        if missing:
            hidden = torch.cat([hidden, hidden[:1].expand(missing, -1)])
        return self.model.get_output_embeddings()(hidden)[: hidden.shape[0] - missing]

    def emit(self, tokens: Tensor, counts: Tensor) -> None:
        """Append the first counts[b] of tokens [B, S]; end sequences at eos or at the limit."""
        column = torch.arange(tokens.shape[1], device=self.device)
        kept = column < counts[:, None]
        ends = kept & torch.isin(tokens, self.eos)
        kept &= ends.cumsum(1) - ends.long() == 0  # nothing after the first eos
        place = torch.where(kept, self.n_out[:, None] + column, self.limit).clamp_(max=self.limit)
        self.out.scatter_(1, place, tokens)
        self.n_out = (self.n_out + kept.sum(1)).clamp_(max=self.limit)
        self.active = self.active & ~ends.any(1) & (self.n_out < self.limit)

    def prefill(self) -> Tensor:
        """Scores the prompt; returns the first new token [B] of each sequence."""
        start = time.perf_counter()
        tokens = torch.nn.functional.pad(self.prompt, (0, max(0, ROW_CLASS - self.prompt.shape[1])))
        depth = torch.arange(tokens.shape[1], device=self.device)[None]
        context = TokenContext(self.cache.kv_len, self.lengths)
        hidden = self.forward(tokens, depth, context)
        last = (self.lengths.to(torch.int64) - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        logits = self.logits(hidden.gather(1, last)[:, 0])
        root = ops.vocab_stats(logits, 1).token
        if self.drafter is not None:
            self.drafter.bind(self.vocab_size, self.device)
            if self.drafter.prefill:
                self.learn_prompt(hidden)
        self.cache.kv_len += self.lengths
        self.emit(root[:, None], torch.ones_like(self.n_out))
        self.seconds["prefill"] += time.perf_counter() - start
        return root

    def learn_prompt(self, hidden: Tensor, chunk: int = 128) -> None:
        """Shows the drafter the candidates after each prompt token, a few rows of logits at a time."""
        batch = hidden.shape[0]
        for begin in range(0, self.prompt.shape[1], chunk):
            part = hidden[:, begin : begin + chunk]
            rows = self.logits(part.reshape(-1, hidden.shape[2]))
            ids = ops.vocab_stats(rows, self.drafter.candidates).ids.view(
                batch, -1, self.drafter.candidates
            )
            tokens = self.prompt[:, begin : begin + chunk]
            count = (self.lengths - begin).clamp(0, tokens.shape[1])
            self.drafter.observe(tokens, ids[:, : tokens.shape[1]], count)

    def step(self, root: Tensor, tree: _Tree) -> Tensor:
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
        # The token after an accepted node is its target, which is the next node of the path or the token beyond it.
        self.emit(target.gather(1, accepted.path.clamp(min=0).long()), accepted.n_accepted)
        marks.append(time.perf_counter())
        for name, begin, end in zip(("draft", "forward", "verify"), marks, marks[1:], strict=False):
            self.seconds[name] += end - begin
        return torch.where(self.active, accepted.next_token, root)

    def measure(self, shape: TreeTemplate) -> float:
        """Seconds of one forward with this tree; the cache rows it writes are not committed."""
        tree = _Tree(shape, len(self.prompt), self.device)
        tokens = self.prompt[:, :1].expand(-1, tree.nodes)
        start = time.perf_counter()
        hidden = self.forward(
            tokens, tree.depth, TokenContext(self.cache.kv_len, tree.count, tree.ancestors)
        )
        self.logits(hidden.view(-1, hidden.shape[2]))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def decode(self, callback) -> tuple[Tensor, Tensor, TreeStats]:
        start = time.perf_counter()
        root = self.prefill()
        shape = self.shape
        if shape is None:
            shape = self.sizer.choose(
                self.drafter.candidates, tuple(self.prompt.shape), self.measure
            )
            self.seconds["sizing"] = time.perf_counter() - start - self.seconds["prefill"]
        tree = _Tree(shape, root.shape[0], self.device)
        forwards, finished = 1, LateFlag(self.device)
        # The bound ends the loop on its own where the flag comes late: each step gives at least one token.
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


def end_tokens(model, eos_token_id, pad_token_id) -> tuple[list[int], int]:
    """Eos ids and the pad id: as given, else as the model's generation config has them."""
    config = getattr(model, "generation_config", None)
    if eos_token_id is None:
        eos_token_id = getattr(config, "eos_token_id", None)
    eos = (
        []
        if eos_token_id is None
        else [eos_token_id]
        if isinstance(eos_token_id, int)
        else list(eos_token_id)
    )
    if pad_token_id is None:
        pad_token_id = getattr(config, "pad_token_id", None)
    return eos, pad_token_id if pad_token_id is not None else (eos[0] if eos else 0)


def token_recycling(
    model,
    input_ids,
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    attention_mask=None,
    drafter: TokenRecycling | None = None,
    **unused,
):
    """Token Recycling inside transformers: `model.generate(ids, custom_generate=token_recycling)`.

    Greedy only. Pass `drafter=TokenRecycling(...)` to keep its matrix from call to call. Returns sequences [B, P + n],
    or a `TreeOutput` with return_dict_in_generate.

    Raises:
        ValueError: sampling, beams, logits processors or stopping criteria other than length and eos.
    """
    if generation_config.do_sample:
        raise ValueError("token_recycling: do_sample: expected False (greedy decoding), got True")
    check_generation("token_recycling", logits_processor, stopping_criteria, generation_config)
    refuse_unknown("token_recycling", unused)
    decoder = TreeDecoder(model, drafter or TokenRecycling())
    output = decoder.generate(
        input_ids,
        attention_mask,
        max_new_tokens=new_token_limit(input_ids, generation_config),
        eos_token_id=generation_config.eos_token_id,
        pad_token_id=generation_config.pad_token_id,
    )
    return output if generation_config.return_dict_in_generate else output.sequences
