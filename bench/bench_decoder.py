"""What a decoding step costs beside the forward: greedy Token Recycling, part by part.

    python bench/bench_decoder.py --out bench/results/DATE-MACHINE/decoder.md

Microseconds of the median step. Everything but `forward` is ours: drafting, verification, the
commit of the cache, the update of the matrix, the text, and the loop around the step. Ours is about
a dozen calls of torch, each of which finds the caches cold after a forward: at best vocab_stats
takes 43 us then and 15 us when called again, tree_verify_greedy 15 and 6 (one thread). Where a
forward takes 3 ms that shows, so a larger model is measured, too.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tokenburst as tb
from harness import circumstances
from tokenburst import ops, zoo
from tokenburst.decoders import treerun
from tokenburst.decoders.treestats import StepLog
from tokenburst.decoders.treetarget import Target
from tokenburst.decoders.treetext import TreeText

PARTS = ("forward", "draft", "verify", "commit", "update", "text", "loop")


class Watch:
    """Times of each part of every step, taken by wrapping what the step calls."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._undo: list[Callable[[], None]] = []
        self._began = 0.0
        self._append = StepLog.append
        StepLog.append = lambda log, path: self.end_of_step(log, path)  # type: ignore[method-assign]

    def part(self, owner: Any, name: str, part: str) -> None:
        """Adds the time of owner.name to `part`."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self._now[part] += time.perf_counter() - start
            return result

        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, call))

    def end_of_step(self, log: StepLog, path: torch.Tensor) -> None:
        """Instead of what collects the accepted paths; what no part had is the loop's."""
        now = time.perf_counter()
        if self._began:
            self._now["loop"] = now - self._began - sum(self._now.values())
            self.steps.append(dict(self._now))
        self._now.clear()
        self._append(log, path)
        self._began = now

    def stop(self) -> dict[str, float]:
        """Median of each part in microseconds."""
        StepLog.append = self._append  # type: ignore[method-assign]
        for undo in reversed(self._undo):
            undo()
        return {p: 1e6 * statistics.median(s.get(p, 0.0) for s in self.steps) for p in PARTS}


def larger() -> torch.nn.Module:
    """Eight layers of 512, random: what a model is like that is worth speeding up."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def measure(model: torch.nn.Module, ids: torch.Tensor, tree: str, new: int) -> dict[str, float]:
    """Parts of the median step, after a first text that fills the matrix."""
    drafter = tb.TokenRecycling(tree)
    decoder = tb.TreeDecoder(model, drafter)
    for _ in range(2):
        out = decoder.generate(ids, max_new_tokens=new, eos_token_id=[], pad_token_id=0)
    watch = Watch()
    for owner, name, part in (
        (Target, "forward", "forward"),
        (Target, "logits", "forward"),
        (drafter, "draft", "draft"),
        (drafter, "observe", "update"),
        (treerun, "verify", "verify"),
        (ops, "tree_commit_kv_", "commit"),
        (TreeText, "append", "text"),
    ):
        watch.part(owner, name, part)
    try:
        decoder.generate(ids, max_new_tokens=new, eos_token_id=[], pad_token_id=0)
    finally:
        parts = watch.stop()
    return parts | {"nodes": out.stats.tree_nodes}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table there too")
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--tree", default="auto")
    args = parser.parse_args()
    tokenizer = zoo.tokenizer("pycode")
    ids = tokenizer(zoo.prompts("pycode")[0]["text"], return_tensors="pt")["input_ids"]
    lines = [
        "# A step of Token Recycling, microseconds",
        "",
        "```",
        circumstances(torch.device("cpu")),
        "```",
        "",
        f"| model | batch | nodes | {' | '.join(PARTS)} | ours / forward |",
        "|---" * (len(PARTS) + 4) + "|",
    ]
    models = {"pycode": zoo.load("pycode"), "random 8 x 512, 32k words": larger()}
    for name, model in models.items():
        for batch in (1, 8):
            parts = measure(model, ids.expand(batch, -1), args.tree, args.new_tokens)
            share = sum(parts[p] for p in PARTS[1:]) / parts["forward"]
            shown = " | ".join(f"{parts[p]:.0f}" for p in PARTS)
            lines.append(f"| {name} | {batch} | {parts['nodes']} | {shown} | {share:.1%} |")
    print("\n".join(lines))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
