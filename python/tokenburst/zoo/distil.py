"""Distils the draft model of pycode: `python -m tokenburst.zoo.distil --out DIR --minutes 9`.

The student learns the teacher's whole distribution after every token of the training files, which
is what acceptance is made of: sum of min(p, q).
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tokenburst import zoo
from tokenburst.zoo.train import Schedule, encode, save


def student(teacher: LlamaForCausalLM) -> LlamaForCausalLM:
    """One layer of two heads, the teacher's vocabulary."""
    config = LlamaConfig(
        vocab_size=teacher.config.vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=teacher.config.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=teacher.config.eos_token_id,
        pad_token_id=teacher.config.pad_token_id,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def acceptance(teacher: nn.Module, model: nn.Module, rows: Tensor) -> float:
    """Mean chance that a token drawn from `model` is accepted by `teacher`, over rows [R, L]."""
    total = 0.0
    for row in rows.split(8):
        p, q = (m(row).logits.softmax(-1) for m in (teacher, model))
        total += float(torch.minimum(p, q).sum(-1).mean()) * len(row)
    return total / len(rows)


def distil(out: Path, minutes: float, seed: int) -> None:
    """Trains the student for `minutes` and saves it with the facts of its training."""
    torch.manual_seed(seed)
    teacher, tokenizer = zoo.load("pycode"), zoo.tokenizer("pycode")
    ids, _ = encode(tokenizer, "train")
    held_out, _ = encode(tokenizer, "test")
    batch, length = 8, 192
    test = held_out[: 64 * length].view(64, length)
    model = student(teacher)
    schedule, running, going = Schedule(model, minutes, muon_lr=0.02, adam_lr=6e-3), 3.0, True
    while going:
        shift = int(torch.randint(length, ()))
        count = (len(ids) - shift) // length
        rows = ids[shift : shift + count * length].view(count, length)
        for index in torch.randperm(count).split(batch):
            with torch.no_grad():
                target = teacher(rows[index]).logits.log_softmax(-1)
            mine = model(rows[index]).logits.log_softmax(-1)
            loss = nn.functional.kl_div(
                mine.flatten(0, 1), target.flatten(0, 1), reduction="batchmean", log_target=True
            )
            loss.backward()
            running += 0.01 * (loss.item() - running)
            going = schedule.step()
            if schedule.steps % 100 == 0:
                print(f"{schedule.elapsed:.0f} s, {schedule.steps}, KL {running:.3f}", flush=True)
            if not going:
                break
    facts = {
        "model": "pycode-draft",
        "teacher": "pycode",
        "seed": seed,
        "minutes": minutes,
        "batch": batch,
        "length": length,
        "steps": schedule.steps,
        "tokens": schedule.steps * batch * length,
        "train_loss": round(running, 4),
        "held_out_acceptance": round(acceptance(teacher, model.eval(), test), 4),
        "seconds": round(schedule.elapsed, 1),
    }
    print(json.dumps(facts), flush=True)
    save(model, out, facts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    distil(args.out, args.minutes, args.seed)


if __name__ == "__main__":
    main()
