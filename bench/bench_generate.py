"""Whole generations of the built-in models: tokens per second and per forward, memory, same text.

Greedy, as many new tokens for all, the same ends of text. The causal model against transformers'
own generate (plain, prompt lookup, assisted by the same draft model); the diffusion models against
the published loops. All methods take turns prompt by prompt. Drafters that learn have two rows:
`cold` knows nothing but the prompt, `warm` has continued eight other prompts; both forget each
timed text before the next.
"""

import time

import torch
from transformers.utils import logging

import tokenburst as tb
from competing import Method, compete, drafting
from loops import transformers_generate, unmasking_loop
from machine import describe, metadata
from record import options, write
from tokenburst import zoo
from tokenburst.decoders import unmasking
from tokenburst.zoo import recall, sudoku

WARM, NEW = 8, 64  # texts that a warm drafter has seen, none of them timed; tokens of each text


def causal(device, batch, groups, rounds, new=NEW):
    """Rows of pycode: each method continues the held-out prompts, `batch` at a time."""
    model, small = (m.to(device) for m in (zoo.load("pycode"), zoo.draft("pycode")))
    tokenizer = zoo.tokenizer("pycode")
    tokenizer.padding_side, tokenizer.pad_token_id = "left", model.config.pad_token_id
    texts = [entry["text"] for entry in zoo.prompts("pycode")]
    timed, seen = texts[WARM : WARM + groups * batch], texts[:WARM]

    def packed(texts):
        cut = [texts[i : i + batch] for i in range(0, len(texts), batch)]
        return [tokenizer(group, return_tensors="pt", padding=True).to(device) for group in cut]

    def ours(drafter=None, start=""):
        return drafting(tb.TreeDecoder(model, drafter), new, packed(seen), start)

    def theirs(**extra):
        return Method(lambda inputs: transformers_generate(model, inputs, new, **extra))

    methods = {"transformers generate": theirs()}
    if batch == 1:  # transformers drafts for one sequence only
        methods["transformers, prompt lookup 8"] = theirs(prompt_lookup_num_tokens=8)
        methods["transformers, assisted"] = theirs(assistant_model=small)
    methods["tokenburst, plain"] = ours()
    methods["tokenburst, prompt lookup 8"] = ours(tb.PromptLookup(8))
    for start in "cold", "warm":
        methods[f"tokenburst, Token Recycling, {start}"] = ours(tb.TokenRecycling(), start)
        methods[f"tokenburst, STAND, {start}"] = ours(tb.Stand("4x2x1"), start)
    methods["tokenburst, draft model, chain"] = ours(tb.DraftModel(small, tb.Chain(4)))
    return compete("pycode", methods, packed(timed), rounds, device, batch)


def boards(device, name, count, rounds):
    """Rows of a sudoku model: puzzles one by one, all cells one block."""
    prompt, side = zoo.prompt_ids(name), int(name.removeprefix("sudoku"))
    givens = {"sudoku4": 0, "sudoku6": 14}[name]
    puzzles, _ = sudoku.puzzles(side, count, seed=2, split="test", givens=givens)
    return diffusion(device, name, [torch.cat([prompt, p])[None] for p in puzzles], rounds)


def long_texts(device, count, rounds):
    """Rows of the recall model: 64 answers at the end of 896 tokens."""
    masked, _ = recall.texts(count, 96, torch.Generator().manual_seed(7))
    return diffusion(device, "recall", list(masked[:, None]), rounds)


def diffusion(device, name, given, rounds):
    model = zoo.load(name).to(device)
    mask = model.config.mask_token_id

    def ours(policy, **more):
        decoder = tb.DiffusionDecoder(model, policy, **more)

        def run(ids):
            out = decoder.infill(ids)
            return out.sequences, out.stats.forwards

        return Method(run)

    methods = {
        "LLaDA's loop, 1 per step": Method(unmasking_loop(model, mask, count=1)),
        "Fast-dLLM's loop, 0.9": Method(unmasking_loop(model, mask, threshold=0.9)),
        "tokenburst, 1 per step": ours(unmasking.LowConfidence()),
        "tokenburst, threshold 0.9": ours(unmasking.Threshold(0.9)),
    }
    if name == "recall":
        methods["tokenburst, threshold 0.9, dual cache"] = ours(
            unmasking.Threshold(0.9), cache=tb.DualCache()
        )
    return compete(name, methods, [ids.to(device) for ids in given], rounds, device, 1)


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    logging.disable_progress_bar()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    facts, rows, started = metadata(device), [], time.perf_counter()
    print(describe(facts), flush=True)
    prompts, rounds = (4, 1) if args.quick else (16, 2)
    parts = {
        "pycode": lambda: causal(device, 1, prompts, rounds),
        "pycode, batch 8": lambda: causal(device, 8, prompts // 8 or 1, rounds + 1),
        "sudoku6": lambda: boards(device, "sudoku6", 6, rounds + 1),
        "recall": lambda: long_texts(device, 1, rounds),
        "sudoku4": lambda: boards(device, "sudoku4", 12, rounds + 1),
    }
    for part, run in parts.items():
        if time.perf_counter() - started > args.seconds:
            print(f"{part} left out after {args.seconds:.0f} s")
            continue
        for row in run():
            rows.append(row)
            same = f"{row['same_text']}/{row['texts']}"
            print(
                f"{row['model']:8} B={row['batch']}  {row['method']:38} "
                f"{row['tokens_per_second']:8.1f} tokens/s  {row['tokens_per_forward']:6.2f} per "
                f"forward  {row['speedup']:6.2f}x  same text {same:6}  {row['peak_mb']} MB",
                flush=True,
            )
        write(args.json, facts, rows, kind="generate")


if __name__ == "__main__":
    main()
