"""Small networks that some rules ask, trained when a bench first needs them; seeded.

Their weights are kept in a folder that the bench is given, never in the repository.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from kinds import Kind
from tokenburst import zoo
from tokenburst.zoo import samplers, sudoku
from tokenburst.zoo.train import SUDOKU, Muon

STEPS = {"sudoku4": 600, "sudoku6": 400}  # of a supervisor: a minute and a half
JOINT_STEPS = 500


class Prompted:
    """A causal model that has read the puzzles, as prompts, when it reads the answers to them."""

    def __init__(self, model: LlamaForCausalLM, questions: Tensor) -> None:
        self.model, self.questions = model, questions
        self.get_output_embeddings = model.get_output_embeddings

    def base_model(self, input_ids: Tensor, **options: Any) -> Any:
        out = self.model.model(torch.cat([self.questions, input_ids], 1), **options)
        out.last_hidden_state = out.last_hidden_state[:, self.questions.shape[1] :]
        return out


def causal(name: str) -> LlamaForCausalLM:
    """Untrained: the built-in model's vocabulary, a puzzle and its answer as one sequence."""
    own, side = zoo.load(name).config, int(name.removeprefix("sudoku"))
    config = LlamaConfig(
        vocab_size=own.vocab_size, hidden_size=96, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": SUDOKU[side]["rope_theta"]},
        max_position_embeddings=2 * side**2 + 8, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def drawing(kind: Kind, generator: torch.Generator) -> Callable[[int], tuple[Tensor, Tensor]]:
    """count -> so many puzzles and solutions of the training split: symmetries of a few."""
    asked, solved = kind.puzzles(1000, 11, "train")

    def draw(count: int) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(asked), (2 * count,), generator=generator)
        state = generator.get_state()
        grids = sudoku.shuffle_grids(solved[pick], kind.side, generator)
        generator.set_state(state)
        questions = sudoku.shuffle_grids(asked[pick], kind.side, generator)
        fresh = (~sudoku.in_test(grids)).nonzero()[:count, 0]
        return questions[fresh], grids[fresh]

    return draw


def supervisor(kind: Kind, steps: int, batch: int = 64, seed: int = 7) -> nn.Module:
    """A causal model that writes the answer to a puzzle, trained on puzzles of one kind."""
    torch.manual_seed(seed)
    model, prompt = causal(kind.model), zoo.prompt_ids(kind.model)
    draw = drawing(kind, torch.Generator().manual_seed(seed))
    matrices = [w for n, w in model.named_parameters() if w.ndim == 2 and "layers" in n]
    other = [w for n, w in model.named_parameters() if not (w.ndim == 2 and "layers" in n)]
    optimizers = Muon(matrices, lr=0.02), torch.optim.AdamW(other, lr=3e-3, betas=(0.9, 0.98))
    for step in range(steps):
        questions, grids = draw(batch)
        ids = torch.cat([questions, prompt.expand(len(grids), -1), grids], 1)
        logits = model(ids[:, :-1], logits_to_keep=grids.shape[1]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), grids.flatten())
        loss.backward()
        for optimizer, rate in zip(optimizers, (0.02, 3e-3), strict=True):
            share = min((step + 1) / 50, 1.0, 2 * (1 - step / steps))
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return model.eval().requires_grad_(False)


def kept(folder: Path, label: str, empty: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` trains, or what it trained before; `empty` takes the weights from the file."""
    file = folder / f"{label}.pt"
    if not file.exists():
        began = time.perf_counter()
        model = make()
        print(f"trained {label} in {time.perf_counter() - began:.0f} s", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
        return model
    empty.load_state_dict(torch.load(file, weights_only=True))
    return empty.eval().requires_grad_(False)


def guide(folder: Path, kind: Kind, steps: int = 0) -> nn.Module:
    """The supervisor for puzzles of a kind."""
    steps = steps or STEPS[kind.model]
    label = f"supervisor-{kind.label}-{steps}"
    return kept(folder, label, causal(kind.model), lambda: supervisor(kind, steps))


def joint(folder: Path, name: str, steps: int = 0) -> nn.Module:
    """The joint sampler of a built-in model."""
    steps, config = steps or JOINT_STEPS, zoo.load(name).config
    empty = samplers.LayerSampler(config.hidden_size, config.max_position_embeddings)
    return kept(folder, f"sampler-{name}-{steps}", empty, lambda: samplers.train(name, steps))
