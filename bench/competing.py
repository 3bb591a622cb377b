"""Whole generations by several methods in turn, on the same inputs: one row per method.

A method is a `Method`: `forget` puts back what it knew before the input, so that no drafter has
seen the text that it is timed on, in whatever round.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from memory import peak_mb
from timing import quartiles


@dataclass
class Method:
    """`run(inputs)` gives the sequences and the number of forwards."""

    run: Callable
    forget: Callable[[], None] = lambda: None


def drafting(decoder, new: int, warm: list, start: str = "") -> Method:
    """Our decoder after the texts `warm`.

    `start`: 'warm' keeps what its drafter and its tree sizes learned from them, as a server would;
    'cold' keeps only what its trees cost here, as on the first request; '' learns nothing.
    """
    empty = copy.deepcopy((decoder.drafter, decoder._sizer)) if start == "cold" else None

    def run(inputs):
        out = decoder.generate(inputs["input_ids"], inputs["attention_mask"], max_new_tokens=new)
        return out.sequences, out.stats.forwards

    for inputs in warm if start else warm[:1]:
        run(inputs)
    if not start:
        return Method(run)
    known = empty or copy.deepcopy((decoder.drafter, decoder._sizer))
    known[1]._cost = decoder._sizer._cost

    def forget():
        decoder.drafter, decoder._sizer = copy.deepcopy(known)

    return Method(run, forget)


def grown(before, after) -> torch.Tensor:
    """[B, new] tokens appended, or [1, filled] those that stand where masks were."""
    if isinstance(before, torch.Tensor):
        return after[after != before][None]
    return after[:, before["input_ids"].shape[1] :]


def repeated(ids: torch.Tensor) -> float:
    """Share of tokens that end a run of four that stood in the new text before; 0 is padding."""
    again = total = 0
    for row in ids.tolist():
        row = [token for token in row if token]
        runs = [tuple(row[i - 3 : i + 1]) for i in range(3, len(row))]
        total += len(runs)
        again += len(runs) - len(set(runs))
    return again / max(1, total)


@dataclass
class Tally:
    """What one method did on each input."""

    seconds: list[list[float]]  # [input][round]
    texts: list[torch.Tensor]
    forwards: int
    tokens: int


def take_turns(methods: dict[str, Method], given: list, rounds: int, device) -> dict[str, Tally]:
    """All methods on each input, round by round; the first round warms up with the first input."""
    tallies = {}
    for name, method in methods.items():
        method.forget()
        method.run(given[0])
        tallies[name] = Tally([[] for _ in given], [], 0, 0)
    for turn in range(rounds):
        for i, inputs in enumerate(given):
            for name, method in methods.items():
                method.forget()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                sequences, forwards = method.run(inputs)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                mine = tallies[name]
                mine.seconds[i].append(time.perf_counter() - start)
                if turn == 0:
                    mine.texts.append(sequences.cpu())
                    mine.forwards += forwards
                    # pycode's padding and end have id 0
                    mine.tokens += int((grown(inputs, sequences) != 0).sum())
    return tallies


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> int:
    """Sequences with equal texts."""
    pairs = zip(ours, theirs, strict=True)
    return sum(sum(map(torch.equal, a, b)) if a.shape == b.shape else 0 for a, b in pairs)


def compete(model: str, methods: dict[str, Method], given: list, rounds: int, device, batch: int):
    """A row per method; the first is what the others are measured against."""
    tallies = take_turns(methods, given, rounds, device)
    first = next(iter(tallies.values()))
    grows = not isinstance(given[0], torch.Tensor)
    again = [repeated(grown(*pair)) for pair in zip(given, first.texts, strict=True) if grows]
    rows = []
    for name, mine in tallies.items():
        total = [sum(times) for times in zip(*mine.seconds, strict=True)]  # of each round
        base = [sum(times) for times in zip(*first.seconds, strict=True)]
        gains = [
            statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            for theirs, ours in zip(first.seconds, mine.seconds, strict=True)
        ]
        low, _, high = quartiles(gains)
        methods[name].forget()
        rows.append(
            {
                "model": model,
                "batch": batch,
                "method": name,
                "device": device.type,
                "tokens_per_second": round(mine.tokens / statistics.median(total), 1),
                "slowest": round(mine.tokens / max(total), 1),
                "fastest": round(mine.tokens / min(total), 1),
                "tokens_per_forward": round(mine.tokens / batch / mine.forwards, 3),
                "forwards": mine.forwards,
                "ms_per_forward": round(1e3 * statistics.median(total) / mine.forwards, 3),
                "speedup": round(
                    statistics.median(a / b for a, b in zip(base, total, strict=True)), 3
                ),
                "speedup_low": round(low, 3),
                "speedup_high": round(high, 3),
                "same_text": same(first.texts, mine.texts),
                "texts": batch * len(given),
                "repeated": round(statistics.mean(again), 3) if again else None,
                "peak_mb": peak_mb(lambda m=methods[name]: m.run(given[0]), lambda: None, device),
            }
        )
    return rows
