"""Time T(n) of a forward over a draft tree of n nodes, and the speed-up that an acceptance gives.

On a CPU the built-in causal model and a random one of 12 layers; on a GPU random models with the
shapes of 7B ones, replayed as a CUDA graph. A free draft of n nodes is worth its expected tokens
times T(1) / T(n); `speedups` takes the best n for each chance of the first candidate to be right.
Every further candidate is right in a third of the cases that are left, but not more often.
"""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from machine import describe, metadata
from record import options, write
from shapes import MODELS
from timing import captured, interleaved, nothing, summary
from tokenburst import zoo
from tokenburst.decoders.drafting import DeviceTree
from tokenburst.decoders.templates import TreeTemplate
from tokenburst.decoders.treetarget import Target
from tokenburst.models.attention import TokenContext, installed
from tokenburst.models.cache import TreeCache

SIZES = 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 128, 256
SECONDS = 8.0, 3.0  # per model and batch: full, quick
ACCEPTANCES = [round(0.05 * i, 2) for i in range(4, 20)]


def ranks(first: float, count: int = 8) -> list[float]:
    """Chances of the candidates of a node, best first, when the first is right with `first`."""
    chances, left = [first], 1 - first
    for _ in range(count - 1):
        chances.append(min(first, left / 3))
        left -= chances[-1]
    return [max(1e-4, chance) for chance in chances]


def random_model(layers, hidden, mlp, heads, kv_heads, dim, vocab, dtype, device):
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(previous)


def zoo_only(context):
    yield "pycode", context, lambda: zoo.load("pycode")


def models(device, quick):
    """(name, context, how to make it), in order of importance."""
    if device.type == "cuda":
        for name in ("Llama-3-8B",) if quick else ("Llama-3-8B", "Qwen2.5-7B", "Llama-2-7B"):
            s = MODELS[name]
            sizes = s.layers, s.hidden, s.mlp, s.heads, s.kv_heads, s.head_dim, s.vocab
            make = lambda sizes=sizes: random_model(*sizes, torch.bfloat16, device)  # noqa: E731
            yield f"random, shape of {name}", 1024, make
        return
    yield from zoo_only(256)
    small = 12, 768, 2048, 12, 4, 64, 32000
    yield "random, 12 layers of 768", 256, lambda: random_model(*small, torch.float32, device)


def costs(model, context, sizes, batch, seconds):
    """Row per size: one forward with the output head, `context` tokens in the cache."""
    device = model.device
    cache = TreeCache(model.config, batch, context + max(sizes) + 4, model.dtype, device)
    cache.kv_len.fill_(context)
    target = Target(model, cache)

    def forward(nodes):
        shape = TreeTemplate.from_acceptance(ranks(0.6), nodes)
        tree = DeviceTree.from_template(shape, batch, device)
        tokens = torch.randint(0, model.config.vocab_size, (batch, tree.nodes), device=device)

        def call():
            seen = TokenContext(cache.kv_len, tree.count, tree.ancestors)
            hidden = target.forward(tokens, tree.depth, seen)
            return target.logits(hidden.view(-1, hidden.shape[2]))

        return (captured(call, nothing) or call) if device.type == "cuda" else call

    with torch.inference_mode(), installed(model):
        calls = [forward(nodes) for nodes in sizes]
        turns = interleaved(calls, nothing, device, seconds, device.type == "cuda")
    for nodes, taken in zip(sizes, turns, strict=True):
        yield {"batch": batch, "context": context, "nodes": nodes, **summary(taken)}


def gains(rows):
    """What each acceptance is worth at the best size, for trees and for chains."""
    cost = {row["nodes"]: row["us"] for row in rows}
    for first in ACCEPTANCES:
        chances = ranks(first)
        trees = {n: TreeTemplate.from_acceptance(chances, n).expected_tokens(chances) for n in cost}
        chains = {n: (1 - first**n) / (1 - first) for n in cost}
        row = {"acceptance": first}
        for kind, tokens in (("tree", trees), ("chain", chains)):
            best = max(cost, key=lambda n: tokens[n] / cost[n])
            row |= {
                f"{kind}_nodes": best,
                f"{kind}_tokens": round(tokens[best], 3),
                f"{kind}_speedup": round(tokens[best] / cost[best] * cost[1], 3),
            }
        yield row


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    logging.disable_progress_bar()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    facts, rows, speedups, started = metadata(device), [], [], time.perf_counter()
    print(describe(facts), flush=True)
    sizes = SIZES[::2] if args.quick else SIZES
    for name, context, make in models(device, args.quick):
        model = make()
        for batch in args.batches[:1] if args.quick else args.batches:
            if time.perf_counter() - started > args.seconds:
                print(f"{name} batch {batch} left out after {args.seconds:.0f} s")
                continue
            found = costs(model, context, sizes, batch, SECONDS[args.quick])
            mine = [{"model": name, **row} for row in found]
            worth = [{"model": name, "batch": batch, **gain} for gain in gains(mine)]
            rows += mine
            speedups += worth
            for row in mine:
                print(f"{name} B={batch} n={row['nodes']:4} {row['us'] / 1e3:9.3f} ms")
            for row in worth[::5]:
                print(
                    f"{name} B={batch} first candidate right {row['acceptance']:.2f}: tree of "
                    f"{row['tree_nodes']}, {row['tree_tokens']:.2f} tokens, "
                    f"{row['tree_speedup']:.2f}x; chain of {row['chain_nodes']}, "
                    f"{row['chain_speedup']:.2f}x",
                    flush=True,
                )
            write(args.json, facts, rows, kind="tree_cost", speedups=speedups)
        del model


if __name__ == "__main__":
    main()
