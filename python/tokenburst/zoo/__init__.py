"""The built-in tiny models: stock transformers checkpoints that travel with the package."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Model(NamedTuple):
    """What a built-in model is: its family ("causal" or "diffusion") and one line about it."""

    family: str
    description: str


MODELS: dict[str, Model] = {
    "pycode": Model("causal", "Python source, 1.8 M parameters, 2k byte-level BPE"),
    "recall": Model("diffusion", "keys and values over 900 tokens, 0.5 M parameters"),
    "sudoku4": Model("diffusion", "4x4 sudoku as masked diffusion, 0.4 M parameters"),
    "sudoku6": Model("diffusion", "6x6 sudoku as masked diffusion, 1.3 M parameters"),
}


def path(name: str) -> Path:
    """The checkpoint folder of the built-in model `name`, for any `from_pretrained`."""
    if name not in MODELS:
        raise ValueError(f"zoo: model must be one of {', '.join(MODELS)}, got {name!r}")
    return Path(__file__).parent / name


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The built-in model `name` as a stock transformers model in `dtype`, in eval mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path(name), dtype=dtype).eval()


def draft(name: str = "pycode", dtype: torch.dtype = torch.float32) -> Any:
    """A draft model for the built-in causal model `name`, distilled from it; see `load`."""
    from transformers import AutoModelForCausalLM

    folder = Path(__file__).parent / f"{path(name).name}-draft"
    if not folder.exists():
        raise ValueError(f"zoo: {name} has no draft model")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def tokenizer(name: str) -> Any:
    """The tokenizer of the built-in causal model `name`."""
    from transformers import AutoTokenizer

    if not (path(name) / "tokenizer.json").exists():
        raise ValueError(f"zoo: {name} reads ids, not text; it has no tokenizer")
    return AutoTokenizer.from_pretrained(path(name))


def prompts(name: str = "pycode") -> list[dict[str, str]]:
    """Held-out prompts of the built-in causal model `name`, dicts with keys "file" and "text"."""
    return json.loads((path(name) / "prompts.json").read_text(encoding="utf-8"))


def prompt_ids(name: str) -> Tensor:
    """The fixed tokens [P] in front of the cells in the built-in diffusion model `name`.

    The whole input is these and then the cells in row-major order: torch.cat([prompt, cells]).
    """
    layout = json.loads((path(name) / "prompt.json").read_text(encoding="utf-8"))
    return torch.tensor(layout["prompt_ids"])
