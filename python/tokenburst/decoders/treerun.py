"""One batch through the steps of tree decoding: draft, score, verify, commit, learn."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.autotree import TreeSizer
from tokenburst.decoders.drafting import DeviceTree, Draft, Drafter, Observation
from tokenburst.decoders.graph import Captured
from tokenburst.decoders.late import LateCopy
from tokenburst.decoders.plain import root_alone
from tokenburst.decoders.prefill import learn_prompt, score_prompts
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treestats import StepLog, TreeStats
from tokenburst.decoders.treetarget import Target
from tokenburst.decoders.treetext import TreeText
from tokenburst.decoders.verifying import verify
from tokenburst.models.attention import TokenContext

Callback = Callable[[Tensor, Tensor], None]


class TreeRun:
    """One call of generate: the state of a batch, all of it on the device."""

    def __init__(
        self, target: Target, drafter: Drafter, sizer: TreeSizer, text: TreeText, mode: str
    ) -> None:
        self.target, self.drafter, self.sizer = target, drafter, sizer
        self.text, self.mode = text, mode
        self.device = text.tokens.device
        self.log = StepLog()
        self.step = Captured(self._step, self.device)
        self._all_active = False  # known now, which on a GPU it never is

    def decode(self, callback: Callback | None) -> TreeStats:
        """Runs until every row has ended; the text then has its rows in the caller's order."""
        start = time.perf_counter()
        text, log = self.text, self.log
        scored = score_prompts(self.target, text)
        self._first_token(scored.last)
        self.drafter.begin(text, self._choose_tree)
        if self.drafter.prefill:
            learn_prompt(self.target, self.drafter, text, scored)
        del scored
        log.add("prefill", time.perf_counter() - start)
        late, on_cpu = LateCopy(self.device), self.device.type == "cpu"
        # Each step gives at least one token, so the bound ends the loop even if reading is late.
        for _ in range(text.most - 1):
            active = late(text.active)
            still = [True] if active is None else active.tolist()
            done = still.count(False)
            if done == len(still):
                break
            if done and 4 * done >= len(still):
                self._leave(still)
                late.forget()
                done = 0
            self._all_active = on_cpu and done == 0
            log.append(self.step())
            if callback is not None:
                callback(*text.new_tokens())
        self._restore()
        return log.stats(text, self.sizer, time.perf_counter() - start, self.drafter)

    def _first_token(self, hidden: Tensor) -> None:
        """The token after each prompt, drawn like every other: from a tree of the root alone."""
        text = self.text
        tree = root_alone(len(text.root), self.device)
        draft = Draft(text.root[:, None], tree).padded()
        logits = self.target.logits(hidden)[:, None].expand(-1, tree.nodes, -1)
        verdict = verify(logits, draft, tree.count, 0, text, "walk")
        text.append(draft.tokens, verdict.path, verdict.n_accepted, verdict.next_token)

    def _step(self) -> Tensor:
        """One forward: a tree below each root is drafted, scored, verified and committed.

        Reads nothing back to the host. Returns the accepted paths [B, N].
        """
        began = time.perf_counter()
        text, cache, drafter = self.text, self.target.cache, self.drafter
        draft = drafter.draft(text).padded()
        tree = draft.tree
        count = tree.count if self._all_active else tree.count * text.active
        drafted = time.perf_counter()

        context = TokenContext(cache.kv_len, count, tree.ancestors)
        hidden = self.target.forward(draft.tokens, tree.depth, context)
        logits = self.target.logits(hidden)
        scored = time.perf_counter()

        verdict = verify(logits, draft, count, drafter.candidates, text, self.mode)
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
        drafter.observe(text, seen)
        text.append(draft.tokens, path, n_accepted, verdict.next_token, cache.kv_len)
        self.log.template = tree.template
        self.log.mark(began, drafted, scored, time.perf_counter())
        return path

    def _leave(self, still: list[bool]) -> None:
        """Finished rows go behind those that still decode, which go on without them."""
        rows = still.count(True)
        late = [i for i in range(rows, len(still)) if still[i]]
        order = list(range(len(still)))
        for hole in (i for i in range(rows) if not still[i]):
            other = late.pop()
            order[hole], order[other] = other, hole
        index = torch.tensor(order, dtype=torch.int64, device=self.device)
        self.text.keep(index, rows)
        self.target.cache.arrange(order, rows)
        self.drafter.keep(index[:rows])
        self.step.reset()

    def _restore(self) -> None:
        order = self.text.restore().tolist()
        self.target.cache.arrange(order, len(order))

    def _choose_tree(self, candidates: int) -> TreeTemplate:
        """The best tree of this many candidates per node, for this device, model and batch."""
        start = time.perf_counter()
        key = len(self.text.root), self.text.tokens.shape[1] - self.text.most - 1
        shape = self.sizer.choose(candidates, key, self._measure)
        sizing = time.perf_counter() - start
        self.log.add("sizing", sizing)
        self.log.add("prefill", -sizing)
        return shape

    def _measure(self, shape: TreeTemplate) -> float:
        """Seconds of one forward with this tree; the cache rows it writes are not committed."""
        tree = DeviceTree.from_template(shape, len(self.text.root), self.device)
        tokens = self.text.tokens[:, :1].expand(-1, tree.nodes)
        start = time.perf_counter()
        context = TokenContext(self.target.cache.kv_len, tree.count, tree.ancestors)
        hidden = self.target.forward(tokens, tree.depth, context)
        self.target.logits(hidden)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start
