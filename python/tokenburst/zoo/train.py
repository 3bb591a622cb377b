"""Trains the built-in models: `python -m tokenburst.zoo.train pycode --out DIR --minutes 25`.

The learning rate follows the clock, so a run ends when it was asked to on any machine; the number
of steps it managed is part of what `training.json` records.
"""

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenburst.zoo import pycode, recall, sudoku

# Coefficients of the quintic Newton-Schulz step that pushes singular values towards 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of update [N,rows,cols], approximately, in its own dtype."""
    a, b, c = NEWTON_SCHULZ
    x = update.mT if update.shape[-2] > update.shape[-1] else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if update.shape[-2] > update.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weight matrices, in fp32: torch's own computes in bf16, which
    has no fast product on AVX2. Matrices of one shape are orthogonalised in one batch."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                by_shape.setdefault(weight.shape, []).append(weight)
            for shape, weights in by_shape.items():
                updates = []
                for weight in weights:
                    state = self.state[weight]
                    if not state:
                        state["momentum"] = torch.zeros_like(weight)
                    state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(state["momentum"], group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(
                    weights, orthogonalise(torch.stack(updates)), strict=True
                ):
                    weight.add_(update, alpha=-scale)


class Schedule:
    """Both optimisers under one learning-rate schedule: warm-up by steps, decay by the clock."""

    def __init__(
        self, model: nn.Module, minutes: float, muon_lr: float, adam_lr: float, flat: float = 0.4
    ) -> None:
        hidden = [w for n, w in model.named_parameters() if w.ndim == 2 and "layers" in n]
        other = [w for n, w in model.named_parameters() if not (w.ndim == 2 and "layers" in n)]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(hidden, lr=muon_lr),
            torch.optim.AdamW(other, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.peak = [muon_lr, adam_lr]
        self.flat = flat
        self.seconds = minutes * 60
        self.start = time.perf_counter()
        self.steps = 0

    @property
    def elapsed(self) -> float:
        """Seconds since training began."""
        return time.perf_counter() - self.start

    def step(self) -> bool:
        """Applies the gradients and clears them; False once the time is used up."""
        progress = self.elapsed / self.seconds
        factor = min(1.0, (self.steps + 1) / 100, max(0.0, 1 - progress) / (1 - self.flat))
        for optimiser, peak in zip(self.optimisers, self.peak, strict=True):
            optimiser.param_groups[0]["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return progress < 1


def save(model: LlamaForCausalLM, out: Path, facts: dict[str, Any]) -> None:
    """Writes `model` as an fp16 checkpoint with the facts of its training beside it."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(out)
    facts = {
        **facts,
        "parameters": sum(w.numel() for w in model.parameters()),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


# --- pycode: a causal model of Python source -----------------------------------------------------

EOS = "<|endoftext|>"


def train_tokenizer(out: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on the training files and saves it under `out`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for _, text in pycode.texts("train")), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    tokenizer.save_pretrained(out)
    return AutoTokenizer.from_pretrained(out)


def encode(tokenizer: PreTrainedTokenizerFast, split: str) -> tuple[Tensor, int]:
    """Token ids [T] of all files of `split`, eos between files, and their size in bytes."""
    texts = [text for _, text in pycode.texts(split)]
    ids: list[int] = []
    for row in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids), sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def causal_loss(model: LlamaForCausalLM, ids: Tensor, length: int = 256) -> float:
    """Mean next-token cross-entropy in nats over ids [T], read in windows of `length`."""
    rows = ids[: len(ids) // length * length].view(-1, length)
    total = 0.0
    for batch in rows.split(32):
        total += model(batch, labels=batch).loss.item() * len(batch)
    return total / len(rows)


def train_pycode(out: Path, minutes: float, seed: int, save_every: float) -> None:
    """A small Llama with one key-value head on the standard library's source."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(out, vocab_size=2048)
    ids, _ = encode(tokenizer, "train")
    held_out, held_out_bytes = encode(tokenizer, "test")
    prompts = pycode.held_out_prompts(24, 112, tokenizer)
    (out / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    batch, length = 8, 256
    facts: dict[str, Any] = {
        "model": "pycode",
        "seed": seed,
        "minutes": minutes,
        "batch": batch,
        "length": length,
        "train_tokens_available": len(ids),
        "held_out_tokens": len(held_out),
        "python": platform.python_version(),
    }
    print(facts, f"{sum(w.numel() for w in model.parameters())} parameters", flush=True)
    schedule = Schedule(model, minutes, muon_lr=0.02, adam_lr=4e-3)
    saved, running = 0.0, math.log(len(tokenizer))

    def checkpoint(rows: int) -> None:
        model.eval()
        loss = causal_loss(model, held_out[: rows * length])
        model.train()
        facts.update(
            steps=schedule.steps,
            tokens=schedule.steps * batch * length,
            train_loss=round(running, 4),
            held_out_loss=round(loss, 4),
            seconds=round(schedule.elapsed, 1),
        )
        print(json.dumps(facts), flush=True)

    going = True
    while going:
        # Fresh offsets each pass: a window never ends at the same token twice by construction.
        shift = int(torch.randint(length, ()))
        count = (len(ids) - shift) // length
        rows = ids[shift : shift + count * length].view(count, length)
        for index in torch.randperm(count).split(batch):
            loss = model(rows[index], labels=rows[index]).loss
            loss.backward()
            running += 0.01 * (loss.item() - running)
            going = schedule.step()
            if schedule.steps % 100 == 0:
                print(f"{schedule.elapsed:.0f} s, {schedule.steps}, {running:.3f}", flush=True)
            if schedule.elapsed - saved > save_every * 60:
                saved = schedule.elapsed
                checkpoint(200)
                save(model, out, facts)
            if not going:
                break
    checkpoint(10**6)
    facts["held_out_bits_per_byte"] = round(
        facts["held_out_loss"] / math.log(2) * len(held_out) / held_out_bytes, 4
    )
    save(model, out, facts)


# --- sudoku: masked diffusion over the cells of a grid -------------------------------------------


@torch.inference_mode()
def solve(
    model: LlamaForCausalLM, prompt: Tensor, puzzle: Tensor, threshold: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Fills the blanks of puzzle [B,C] by confidence; prompt [P] comes before the cells.

    Each forward commits every blank cell whose best digit has probability >= `threshold`, and at
    least the most confident one. Returns the cells [B,C] and the forwards each row took [B].
    """
    cells = puzzle.clone()
    forwards = torch.zeros(len(puzzle), dtype=torch.int64)
    while (cells == 0).any():
        ids = torch.cat([prompt.expand(len(cells), -1), cells], 1)
        logits = model(ids, use_cache=False, logits_to_keep=cells.shape[1]).logits
        best, digit = logits[..., 1:].softmax(-1).max(-1)
        blank = cells == 0
        best = best.masked_fill(~blank, -1.0)
        take = best >= threshold
        take.scatter_(1, best.argmax(1, keepdim=True), True)
        forwards += blank.any(1)
        cells = torch.where(take & blank, digit + 1, cells)
    return cells, forwards


def accuracy(
    model: LlamaForCausalLM, prompt: Tensor, n: int, count: int, threshold: float = 1.0
) -> dict[str, float]:
    """Share of held-out puzzles with a unique solution that are solved, and the mean forwards."""
    puzzle, _ = sudoku.puzzles(n, count, seed=1, split="test")
    cells, forwards = solve(model, prompt, puzzle, threshold)
    return {
        "puzzles": count,
        "solved": round(sudoku.is_solved(cells, puzzle).float().mean().item(), 4),
        "forwards": round(forwards.float().mean().item(), 2),
    }


def diffusion_loss(
    model: LlamaForCausalLM, prompt: Tensor, grids: Tensor, generator: torch.Generator
) -> Tensor:
    """LLaDA's loss on grids [B,C]: each row masks its cells with a probability t of its own, the
    cross-entropy of the masked cells is weighted by 1/t. The t of a batch are spread evenly."""
    count, size = grids.shape
    t = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = t.clamp(min=1 / size)[:, None]
    masked = torch.rand(count, size, generator=generator) < t
    ids = torch.cat([prompt.expand(count, -1), grids.masked_fill(masked, 0)], 1)
    logits = model(ids, use_cache=False, logits_to_keep=size).logits
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), grids, reduction="none")
    return (loss * masked / t).sum() / (count * size)


# The RoPE base below 1 makes frequencies rise from 1 to 2 pi and beyond; at whole positions those
# are taken modulo 2 pi. These bases put one within 0.012 of each period of the board: a box's
# width, a row, a band of boxes, and (within 0.04) twice the board.
SUDOKU = {
    4: {"hidden": 96, "ffn": 192, "layers": 4, "heads": 3, "kv_heads": 1, "rope_theta": 0.05656},
    6: {"hidden": 128, "ffn": 320, "layers": 6, "heads": 4, "kv_heads": 2, "rope_theta": 0.09418},
}


def train_sudoku(
    n: int, out: Path, minutes: float, seed: int, save_every: float, start: Path | None = None
) -> None:
    """A small bidirectional Llama over the cells of sudoku grids of side n.

    With `start`, training goes on from that checkpoint, under a fresh schedule.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = SUDOKU[n]
    prompt = torch.tensor([n + 1])
    config = LlamaConfig(
        vocab_size=n + 1 + len(prompt),
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=64,
        max_position_embeddings=len(prompt) + n * n,
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        bos_token_id=int(prompt[0]),
        eos_token_id=None,
        is_causal=False,
        mask_token_id=0,
    )
    model = LlamaForCausalLM(config)
    if start is not None:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).train()
    height, width = sudoku.box_shape(n)
    layout = {
        "side": n,
        "box": [height, width],
        "mask_token_id": 0,
        "prompt_ids": prompt.tolist(),
        "cells": n * n,
    }
    (out / "prompt.json").write_text(json.dumps(layout) + "\n")
    batch = 64
    facts: dict[str, Any] = {
        "model": f"sudoku{n}",
        "seed": seed,
        "minutes": minutes,
        "batch": batch,
        "muon_lr": 0.02,
        "adam_lr": 2e-3,
    }
    if start is not None:
        facts["earlier"] = json.loads((start / "training.json").read_text())
    schedule = Schedule(model, minutes, muon_lr=facts["muon_lr"], adam_lr=facts["adam_lr"])
    saved, running, going = 0.0, 1.0, True

    def checkpoint(puzzles: int) -> None:
        model.eval()
        facts.update(
            steps=schedule.steps,
            sequences=schedule.steps * batch,
            train_loss=round(running, 4),
            seconds=round(schedule.elapsed, 1),
            one_per_step=accuracy(model, prompt, n, puzzles),
            threshold_095=accuracy(model, prompt, n, puzzles, 0.95),
        )
        model.train()
        print(json.dumps(facts), flush=True)
        save(model, out, facts)

    while going:
        for rows in sudoku.grids(n, batch * 32, generator).split(batch):
            loss = diffusion_loss(model, prompt, rows, generator)
            loss.backward()
            running += 0.01 * (loss.item() - running)
            going = schedule.step()
            if schedule.steps % 100 == 0:
                print(f"{schedule.elapsed:.0f} s, {schedule.steps}, {running:.4f}", flush=True)
            if not going:
                break
        if going and schedule.elapsed - saved > save_every * 60:
            saved = schedule.elapsed
            checkpoint(128)
    checkpoint(512)


# --- recall: masked diffusion over a long text ---------------------------------------------------


@torch.inference_mode()
def recalled(model: LlamaForCausalLM, pages: int, count: int) -> float:
    """Share of the masks of fresh texts that are filled right, all at once."""
    right = total = 0
    masked, solved = recall.texts(count, pages)
    for ids, want in zip(masked.split(8), solved.split(8), strict=True):
        hidden = model.model(ids, use_cache=False).last_hidden_state
        asked = ids == recall.MASK
        right += (model.lm_head(hidden[asked]).argmax(-1) == want[asked]).sum().item()
        total += int(asked.sum())
    return round(right / total, 4)


def recall_loss(
    model: LlamaForCausalLM, masked: Tensor, solved: Tensor, generator: torch.Generator
) -> Tensor:
    """LLaDA's loss over the answers of texts [B,L], as in `diffusion_loss`."""
    count = len(masked)
    t = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = t.clamp(min=1 / recall.QUESTIONS)[:, None]
    asked = masked == recall.MASK
    asked &= torch.rand(masked.shape, generator=generator) < t
    hidden = model.model(solved.masked_fill(asked, recall.MASK), use_cache=False).last_hidden_state
    loss = nn.functional.cross_entropy(
        model.lm_head(hidden[asked]), solved[asked], reduction="none"
    )
    return (loss / t.expand_as(asked)[asked]).sum() / (count * recall.QUESTIONS)


@torch.no_grad()
def start_as_lookup(model: LlamaForCausalLM, sharpness: float = 7.0, gain: float = 5.0) -> None:
    """Starts the heads where a lookup needs them; from nothing, finding that takes training long.

    The first layer's first key-value head begins by reading the token before: q and k get constant
    parts, one turned by a step of RoPE against the other. In the last layer queries begin equal to
    keys, so that like attends to like: a question to the answer behind the same key.
    """
    config = model.config
    half, group = config.head_dim // 2, config.num_attention_heads // config.num_key_value_heads
    angle = model.model.rotary_emb.inv_freq
    constant = torch.where(torch.arange(half) < half // 2, sharpness, 0.0)
    first, last = (model.model.layers[i].self_attn for i in (0, -1))
    first.k_proj.bias[:half] = constant
    turned = torch.cat([constant * angle.cos(), -constant * angle.sin()])
    first.q_proj.bias[: group * config.head_dim] = turned.repeat(group)
    model.get_input_embeddings().weight[recall.MASK] = 0.0  # or masks would find each other
    heads = last.k_proj.weight.unflatten(0, (-1, config.head_dim)).mul_(gain)
    heads[:, (constant > 0).repeat(2)] = 0.0  # what RoPE turns fast matches nearby tokens only
    last.q_proj.weight.copy_(heads.repeat_interleave(group, 0).flatten(0, 1))


def train_recall(out: Path, minutes: float, seed: int, save_every: float) -> None:
    """A small bidirectional Llama that looks up keys in up to 1024 tokens before them.

    Texts grow whenever the answers come out right.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 2)
    config = LlamaConfig(
        vocab_size=recall.VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=None,
        is_causal=False,
        mask_token_id=recall.MASK,
    )
    model = LlamaForCausalLM(config)
    start_as_lookup(model)
    stages = [
        (2, 16),
        (4, 16),
        (8, 16),
        (16, 12),
        (32, 10),
        (64, 7),
        (96, 5),
    ]  # pages, texts in a batch
    facts: dict[str, Any] = {
        "model": "recall",
        "seed": seed,
        "minutes": minutes,
        "stages": stages,
        "muon_lr": 2e-3,
        "adam_lr": 4e-3,
    }
    schedule = Schedule(model, minutes, muon_lr=facts["muon_lr"], adam_lr=facts["adam_lr"])
    saved, running, stage, began, going = 0.0, 4.0, 0, [0], True

    def checkpoint(count: int) -> None:
        model.eval()
        facts.update(
            steps=schedule.steps,
            began=began,
            train_loss=round(running, 4),
            seconds=round(schedule.elapsed, 1),
            answers_right={n: recalled(model, n, count) for n, _ in stages},
        )
        model.train()
        print(json.dumps(facts), flush=True)
        save(model, out, facts)

    while going:
        pages, batch = stages[stage]
        loss = recall_loss(model, *recall.texts(batch, pages, generator), generator)
        loss.backward()
        running += 0.03 * (loss.item() - running)
        going = schedule.step()
        if schedule.steps % 50 == 0:
            print(f"{schedule.elapsed:.0f} s, {schedule.steps}, {pages}, {running:.4f}", flush=True)
        if running < 0.25 and stage + 1 < len(stages):
            stage, running = stage + 1, 1.0
            began.append(schedule.steps)
        if going and schedule.elapsed - saved > save_every * 60:
            saved = schedule.elapsed
            checkpoint(16)
    checkpoint(64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["pycode", "recall", "sudoku4", "sudoku6"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=25.0, help="time to train for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=5.0, help="minutes between saves")
    parser.add_argument("--start", type=Path, help="sudoku checkpoint to go on from")
    args = parser.parse_args()
    if args.start is not None and not args.model.startswith("sudoku"):
        parser.error(f"--start continues a sudoku model, {args.model} starts anew")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.model == "pycode":
        train_pycode(args.out, args.minutes, args.seed, args.save_every)
    elif args.model == "recall":
        train_recall(args.out, args.minutes, args.seed, args.save_every)
    else:
        side = int(args.model.removeprefix("sudoku"))
        train_sudoku(side, args.out, args.minutes, args.seed, args.save_every, args.start)


if __name__ == "__main__":
    main()
