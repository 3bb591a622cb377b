"""Text in, text out, for the command line: a checkpoint directory or a built-in model."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tokenburst import zoo
from tokenburst.decoders.diffusion import DiffusionDecoder, DiffusionStats, LowConfidence, Threshold
from tokenburst.decoders.recycling import TokenRecycling
from tokenburst.decoders.tree import TreeDecoder
from tokenburst.decoders.treestats import TreeStats
from tokenburst.demo import show_boards
from tokenburst.models.attention import SUPPORTED
from tokenburst.models.diffusion import load_diffusion

CAUSAL_METHODS = ("recycling", "plain")
DIFFUSION_METHODS = ("threshold", "one-per-step")


def checkpoint(model: str) -> tuple[Path, AutoConfig]:
    """Directory and config of a built-in model or a checkpoint; ValueError says what is wrong."""
    folder = zoo.path(model) if model in zoo.MODELS else Path(model)
    if not (folder / "config.json").is_file():
        known = ", ".join(zoo.MODELS)
        raise ValueError(f"model: expected a checkpoint directory or one of {known}, got {model!r}")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in SUPPORTED:
        raise ValueError(
            f"model: expected one of {', '.join(SUPPORTED)}, got a {config.model_type} checkpoint"
        )
    return folder, config


def generate_text(
    model: str, prompt: str, method: str | None, max_new_tokens: int, threshold: float
) -> tuple[str, dict[str, float]]:
    """Continues `prompt` (or solves it, for a sudoku model).

    Returns:
        The text and the figures forwards, new_tokens, tokens_per_forward and seconds.

    Raises:
        ValueError: no such model, an unsupported architecture, a method of the other family, an
            empty prompt or a board that does not fit.
    """
    folder, config = checkpoint(model)
    causal = getattr(config, "is_causal", True) is not False
    methods = CAUSAL_METHODS if causal else DIFFUSION_METHODS
    method = methods[0] if method is None else method
    if method not in methods:
        raise ValueError(
            f"method: expected one of {', '.join(methods)} for this model, got {method}"
        )
    if causal:
        return _continue(folder, prompt, method, max_new_tokens)
    policy = Threshold(threshold) if method == "threshold" else LowConfidence(tokens_per_step=1)
    decoder = DiffusionDecoder(load_diffusion(folder), policy)
    if model in zoo.MODELS:
        return _solve(model, decoder, prompt)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = _encode(tokenizer, prompt)
    output = decoder.generate(ids, gen_length=max_new_tokens)
    text = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    return prompt + text, _figures(output.stats)


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    if ids.shape[1] == 0:
        raise ValueError("prompt: expected at least one token, got none")
    return ids.to(torch.int64)


def _continue(folder: Path, prompt: str, method: str, limit: int) -> tuple[str, dict[str, float]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    language_model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    if language_model.dtype == torch.float16 and not torch.cuda.is_available():
        language_model = language_model.float()  # half products are slow on a CPU
    drafter = TokenRecycling() if method == "recycling" else None
    ids = _encode(tokenizer, prompt)
    output = TreeDecoder(language_model, drafter).generate(ids, max_new_tokens=limit)
    text = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    return prompt + text, _figures(output.stats)


def _solve(model: str, decoder: DiffusionDecoder, prompt: str) -> tuple[str, dict[str, float]]:
    side = int(model.removeprefix("sudoku"))
    cells = [0 if c in ".0" else int(c) for c in prompt if c in ".0123456789"]
    if len(cells) != side * side or max(cells) > side:
        raise ValueError(
            f"prompt: expected {side * side} cells, digits 1..{side} or a dot, got {prompt!r}"
        )
    start = zoo.prompt_ids(model)
    output = decoder.infill(torch.cat([start, torch.tensor(cells)])[None])
    return show_boards(output.sequences[0, len(start) :]), _figures(output.stats)


def _figures(stats: TreeStats | DiffusionStats) -> dict[str, float]:
    return {
        "forwards": stats.forwards,
        "new_tokens": sum(stats.new_tokens),
        "tokens_per_forward": stats.tokens_per_forward,
        "seconds": stats.seconds,
    }
