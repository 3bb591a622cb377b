"""Every unmasking rule, by name, as a function that fills the masks of some puzzles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trained
from kinds import Kind
from tokenburst import zoo
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.voting import hex_vote
from tokenburst.zoo import filters

# (model, sequences [B, L] with masks, names [B] of the rows) -> filled, forwards of all rows
Fill = Callable[[Any, Tensor, Tensor], tuple[Tensor, int]]
VOTES = {"sudoku4": ((2, 4, 8, 16), 3), "sudoku6": ((6, 12, 36), 2)}  # block lengths, seeds


def fill(policy: Any, **options: Any) -> Fill:
    """A policy with the decoding options that belong to it."""

    def run(model: Any, ids: Tensor, names: Tensor) -> tuple[Tensor, int]:
        asked = policy(ids) if callable(policy) else policy
        out = DiffusionDecoder(model, asked).infill(ids, sequence_ids=names, **options)
        return out.sequences, sum(map(sum, out.stats.steps))

    return run


def voted(blocks: tuple[int, ...], seeds: int) -> Fill:
    """HEX over whole answers, two tokens per step at temperature 0.9, as published."""

    def run(model: Any, ids: Tensor, names: Tensor) -> tuple[Tensor, int]:
        decoder = DiffusionDecoder(model, u.LowConfidence(tokens_per_step=2))
        each = len(blocks) * seeds
        names = (names[:, None] * each + torch.arange(each)).flatten()
        vote = hex_vote(
            decoder, ids, answer=lambda row: tuple(row.tolist()), gen_length=None,
            blocks=blocks, seeds=seeds, sequence_ids=names,
        )  # fmt: skip
        return torch.tensor(vote.answers), sum(map(sum, vote.stats.steps))

    return run


def asking(kind: Kind, folder: Path, steps: int) -> dict[str, Fill]:
    """Rules that ask another network, which is trained here."""
    guide, joint = trained.guide(folder, kind, steps), trained.joint(folder, kind.model, steps)
    filter_ = filters.train(kind.model, 10 if steps else 200, kind.givens)
    start = len(zoo.prompt_ids(kind.model))
    rules: dict[str, Fill] = {
        f"Guided, text of the {text}": fill(
            lambda ids, text=text: u.Guided(trained.Prompted(guide, ids[:, start:]), text)
        )
        for text in ("diffusion", "supervisor")
    }
    for tokens in (2, 4):
        rules[f"joint sampling, {tokens} per step"] = fill(u.JointSampling(joint, tokens))
    rules["Learn2PD filter"] = fill(u.Learned(filter_))
    return rules


def every(kind: Kind, folder: Path, steps: int = 0) -> dict[str, Fill]:
    """Rules by name.

    Args:
        kind: of the puzzles.
        folder: keeps the networks that some rules ask.
        steps: of their training; 0: as many as they need.
    """
    cells, givens = kind.side**2, kind.givens
    cool = {"temperature": 0.3, "sampling": Sampling(top_p=0.95)}
    spare = int(zoo.prompt_ids(kind.model)[0])  # no puzzle has an end, and none this token
    spans = givens > 0 and (cells - givens) % 2 == 0  # as many masks in each puzzle, in pairs
    thresholds = (0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7)
    orders = ("entropy", "maskgit_plus", "topk_margin", "origin")
    blocks, seeds = VOTES[kind.model]
    return {
        "one per step": fill(u.LowConfidence()),
        "random order": fill(u.LowConfidence(ranking="random")),
        "LLaDA, 2 per step": fill(u.LowConfidence(tokens_per_step=2)),
        "LLaDA, 4 per step": fill(u.LowConfidence(tokens_per_step=4)),
        **{f"Dream, {order}": fill(u.Dream(8, order)) for order in orders},
        "DiffuCoder recipe": fill(u.Dream(8, "entropy"), **cool),
        "Dimple": fill(u.Dimple(0.95, cells)),
        **{f"Fast-dLLM, threshold {tau}": fill(u.Threshold(tau)) for tau in thresholds},
        **{f"Fast-dLLM, factor {f:g}": fill(u.Factor(f)) for f in (1.0, 0.5, 0.1)},
        "dParallel, entropy 0.05": fill(u.Threshold(0.05, "entropy")),
        "dParallel, entropy 0.3": fill(u.Threshold(0.3, "entropy")),
        "EB-sampler 0.1": fill(u.EntropyBudget(0.1)),
        "EB-sampler 0.5": fill(u.EntropyBudget(0.5)),
        "Prophet, whole block": fill(u.Prophet()),
        "Prophet, last 4": fill(u.Prophet(answer=4)),
        "CreditDecoding": fill(u.Credit(u.Threshold(0.9))),
        "LocalLeap": fill(u.LocalLeap()),
        "ASS": fill(u.Ascending()),
        "EOSER + ASS, no ends": fill(u.EosDamping(u.Ascending(), (spare,), 0.01)),
        "SDAR dynamic": fill(u.sdar_dynamic(0.85)),
        "LLaDA2": fill(u.llada2()),
        "LLaDA2.1, editing": fill(u.Editing(u.llada2(0.7))),
        "RCR, 8 steps": fill(u.RunningConfidence(8)),
        "RCR, 4 steps": fill(u.RunningConfidence(4)),
        "ReMDM, cap": fill(u.ReMDM(16, eta=0.02)),
        "ReMDM, loop": fill(u.ReMDM(16, "loop", eta=0.02)),
        "WINO": fill(u.Wino()),
        "WINO, shadows apart": fill(u.Wino(apart=True)),
        "KLASS": fill(u.Stable()),
        **({"MAGNeT, spans of 2": fill(u.SpanMasking(8, span=2))} if spans else {}),
        "SlowFast": fill(u.SlowFast()),
        f"HEX, {len(blocks) * seeds} decodings": voted(blocks, seeds),
        **asking(kind, folder, steps),
    }
