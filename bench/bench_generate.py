"""Whole generations of the built-in models: tokens per second and per forward, memory, same text.

Greedy. The causal model against transformers' own generate (plain, prompt lookup, assisted by the
same draft model); the diffusion models against the published loops. All methods take turns prompt
by prompt; a drafter that learns starts empty in each round.
"""

import statistics
import time

import torch
from transformers.utils import logging

import tokenburst as tb
from loops import transformers_generate, unmasking_loop
from machine import describe, metadata
from memory import peak_mb
from record import options, write
from tokenburst import zoo
from tokenburst.decoders import unmasking
from tokenburst.zoo import recall, sudoku


def causal(device, batch, prompts, new, rounds):
    """Rows of pycode: each method continues the held-out prompts, `batch` at a time."""
    model, small = (m.to(device) for m in (zoo.load("pycode"), zoo.draft("pycode")))
    tokenizer = zoo.tokenizer("pycode")
    tokenizer.padding_side, tokenizer.pad_token_id = "left", model.config.pad_token_id
    texts = [entry["text"] for entry in zoo.prompts("pycode")[: prompts * batch]]
    groups = [texts[i : i + batch] for i in range(0, len(texts), batch)]
    given = [tokenizer(group, return_tensors="pt", padding=True).to(device) for group in groups]

    def ours(drafter=lambda: None):
        decoder = tb.TreeDecoder(model)  # keeps what it measured to size its trees
        plain = decoder.drafter

        def run(inputs):
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            out = decoder.generate(ids, mask, max_new_tokens=new)
            return out.sequences, out.stats.forwards

        def start():
            decoder.drafter = drafter() or plain
            return run

        return start

    def theirs(**extra):
        return lambda inputs: transformers_generate(model, inputs, new, **extra)

    methods = {"transformers generate": theirs}
    if batch == 1:  # transformers drafts for one sequence only
        methods["transformers, prompt lookup 8"] = lambda: theirs(prompt_lookup_num_tokens=8)
        methods["transformers, assisted"] = lambda: theirs(assistant_model=small)
    methods |= {
        "tokenburst, plain": ours(),
        "tokenburst, prompt lookup 8": ours(lambda: tb.PromptLookup(8)),
        "tokenburst, Token Recycling": ours(tb.TokenRecycling),
        "tokenburst, STAND": ours(lambda: tb.Stand("4x2x1")),
        "tokenburst, draft model, chain": ours(lambda: tb.DraftModel(small, tb.Chain(4))),
    }
    return compete("pycode", methods, given, rounds, device, batch)


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

        return run

    methods = {
        "LLaDA's loop, 1 per step": lambda: unmasking_loop(model, mask, count=1),
        "Fast-dLLM's loop, 0.9": lambda: unmasking_loop(model, mask, threshold=0.9),
        "tokenburst, 1 per step": lambda: ours(unmasking.LowConfidence()),
        "tokenburst, threshold 0.9": lambda: ours(unmasking.Threshold(0.9)),
    }
    if name == "recall":
        methods["tokenburst, threshold 0.9, dual cache"] = lambda: ours(
            unmasking.Threshold(0.9), cache=tb.DualCache()
        )
    return compete(name, methods, [ids.to(device) for ids in given], rounds, device, 1)


def new_tokens(before, after) -> int:
    """Tokens appended or filled in; pycode's padding and end have id 0."""
    if isinstance(before, torch.Tensor):
        return int((after != before).sum())
    return int((after[:, before["input_ids"].shape[1] :] != 0).sum())


def compete(name, methods, given, rounds, device, batch):
    """A row per method; the first is what the others are measured against."""
    seconds = {method: [] for method in methods}
    texts, forwards, tokens = {}, {}, {}
    for turn in range(rounds + 1):  # the first warms up
        running = {method: make() for method, make in methods.items()}
        spent = dict.fromkeys(methods, 0.0)
        texts, forwards, tokens = ({m: empty() for m in methods} for empty in (list, int, int))
        for inputs in given:
            for method, run in running.items():
                start = time.perf_counter()
                sequences, count = run(inputs)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                spent[method] += time.perf_counter() - start
                texts[method].append(sequences.cpu())
                forwards[method] += count
                tokens[method] += new_tokens(inputs, sequences)
        if turn:
            for method in methods:
                seconds[method].append(spent[method])
    first = next(iter(methods))
    rows = []
    for method, make in methods.items():
        ours, base = seconds[method], seconds[first]
        run = make()
        rows.append(
            {
                "model": name,
                "batch": batch,
                "method": method,
                "device": device.type,
                "tokens_per_second": round(tokens[method] / statistics.median(ours), 1),
                "slowest": round(tokens[method] / max(ours), 1),
                "fastest": round(tokens[method] / min(ours), 1),
                "tokens_per_forward": round(tokens[method] / batch / forwards[method], 3),
                "forwards": forwards[method],
                "ms_per_forward": round(1e3 * statistics.median(ours) / forwards[method], 3),
                "speedup": round(statistics.median(map(speedup, base, ours)), 3),
                "same_text": sum(map(torch.equal, texts[first], texts[method])),
                "texts": len(given),
                "peak_mb": peak_mb(lambda run=run: run(given[0]), lambda: None, device),
            }
        )
    return rows


def speedup(base: float, ours: float) -> float:
    return base / ours


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    logging.disable_progress_bar()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    facts, rows, started = metadata(device), [], time.perf_counter()
    print(describe(facts), flush=True)
    prompts, rounds = (2, 2) if args.quick else (3, 3)
    parts = {
        "pycode": lambda: causal(device, 1, prompts, 64, rounds),
        "sudoku6": lambda: boards(device, "sudoku6", prompts * 2, rounds),
        "recall": lambda: long_texts(device, prompts // 2, rounds),
        "sudoku4": lambda: boards(device, "sudoku4", prompts * 4, rounds),
        "pycode, batch 8": lambda: causal(device, 8, 1, 64, rounds),
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
