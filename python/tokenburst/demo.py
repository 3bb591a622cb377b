"""The demo: both families on the built-in models, measured as they run."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch

from tokenburst import zoo
from tokenburst.decoders.diffusion import DiffusionDecoder, LowConfidence, Threshold
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.tree import TreeDecoder
from tokenburst.zoo import sudoku

Tick = Callable[[str], None]

GIVENS = {"sudoku4": 0, "sudoku6": 14}  # 0: none to spare


@dataclass
class TreeResult:
    """Held-out prompts decoded plainly and with Token Recycling.

    `baseline_seconds` is the faster of two plain decodings: this package's with one token per
    forward, and transformers' own generate.
    """

    identical: bool = True
    prompts: int = 0
    new_tokens: int = 0
    baseline_forwards: int = 0
    forwards: int = 0
    tokens_per_forward: float = 0.0
    baseline_seconds: float = 0.0
    seconds: float = 0.0
    plain_seconds: float = 0.0
    transformers_seconds: float = 0.0
    transformers_identical: bool = True
    tree_nodes: list[int] = field(default_factory=list)


@dataclass
class DiffusionResult:
    """One unmasking policy on held-out puzzles; forwards are means per puzzle."""

    policy: str
    forwards: float
    accuracy: float
    seconds: float
    model: str


def policies(cells: int) -> Iterator[tuple[str, LowConfidence | Threshold]]:
    """The unmasking policies that the demo compares, by name."""
    yield "one per step", LowConfidence(tokens_per_step=1)
    yield "one per step, random order", LowConfidence(tokens_per_step=1, ranking="random")
    yield "4 per step", LowConfidence(tokens_per_step=4)
    yield "all at once", LowConfidence(tokens_per_step=cells)
    yield "threshold 0.9", Threshold(0.9)
    yield "threshold 0.95", Threshold(0.95)
    yield "threshold 0.99", Threshold(0.99)


@torch.inference_mode()
def run_tree(prompts: int, new_tokens: int, tick: Tick) -> tuple[TreeResult, str]:
    """Decodes held-out prompts one by one, both ways in turn; returns also a sample of the text."""
    model, tokenizer = zoo.load("pycode"), zoo.tokenizer("pycode")
    texts = [entry["text"] for entry in zoo.prompts("pycode")]
    plain, recycling = TreeDecoder(model), TreeDecoder(model, TokenRecycling())
    result, sample = TreeResult(), ""
    for text in texts[:prompts]:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        start = time.perf_counter()
        theirs = model.generate(ids, do_sample=False, max_new_tokens=new_tokens)
        result.transformers_seconds += time.perf_counter() - start
        one = plain.generate(ids, max_new_tokens=new_tokens)
        many = recycling.generate(ids, max_new_tokens=new_tokens)
        result.identical &= torch.equal(one.sequences, many.sequences)
        result.transformers_identical &= torch.equal(theirs, many.sequences)
        result.prompts += 1
        result.new_tokens += sum(many.stats.new_tokens)
        result.baseline_forwards += one.stats.forwards
        result.forwards += many.stats.forwards
        result.plain_seconds += one.stats.seconds
        result.seconds += many.stats.seconds
        result.tree_nodes.append(many.stats.tree_nodes)
        sample = sample or text + "⟫" + tokenizer.decode(many.sequences[0, ids.shape[1] :])
        tick(f"prompt {result.prompts} of {min(prompts, len(texts))}")
    result.baseline_seconds = min(result.plain_seconds, result.transformers_seconds)
    result.tokens_per_forward = result.new_tokens / max(1, result.forwards)
    return result, sample


@torch.inference_mode()
def run_diffusion(name: str, count: int, tick: Tick) -> tuple[list[DiffusionResult], str]:
    """Solves held-out puzzles with each policy; returns also one puzzle and its solution."""
    model, prompt = zoo.load(name), zoo.prompt_ids(name)
    side = int(name.removeprefix("sudoku"))
    questions, _ = sudoku.puzzles(side, count, seed=1, split="test", givens=GIVENS[name])
    results, sample = [], ""
    for label, policy in policies(side * side):
        decoder = DiffusionDecoder(model, policy)
        solved, forwards, seconds = 0, 0, 0.0
        for question in questions:
            output = decoder.infill(torch.cat([prompt, question])[None])  # a blank is the mask
            cells = output.sequences[:, len(prompt) :]
            right = bool(sudoku.is_solved(cells, question[None]))
            solved, forwards = solved + right, forwards + output.stats.forwards
            seconds += output.stats.seconds
            sample = sample or show_boards(question, cells[0])
        tick(f"{name}, {label}")
        results.append(DiffusionResult(label, forwards / count, solved / count, seconds, name))
    return results, sample


def show_boards(*boards: torch.Tensor) -> str:
    """Boards [n * n] side by side, a dot for a blank."""
    side = math.isqrt(len(boards[0]))
    rows = zip(*(board.view(side, side).tolist() for board in boards), strict=True)
    return "\n".join(
        "     ".join(" ".join(str(c) if c else "." for c in row) for row in line) for line in rows
    )


def as_json(tree: TreeResult, diffusion: list[DiffusionResult]) -> str:
    """The demo's result as one JSON object."""
    rows = [{**asdict(row), "policy": f"{row.model}: {row.policy}"} for row in diffusion]
    return json.dumps({"tree": asdict(tree), "diffusion": rows})
