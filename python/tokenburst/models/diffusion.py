"""Masked diffusion models from local checkpoints, on stock transformers classes."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from tokenburst.models.checkpoint import (
    fill,
    read_json,
    read_weights,
    refusal,
    tokenizer_mask,
)
from tokenburst.models.layouts import LAYOUTS


def load_diffusion(
    path: str | Path,
    *,
    mask_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    block_length: int | None = None,
    rope_scale: float = 1.0,
    dtype: Any = "auto",
    device: Any = None,
) -> Any:
    """Load a masked diffusion language model as a stock causal LM that sees in both directions.

    Known are the published layouts of LLaDA and LLaDA-1.5 (`llada`, run by LlamaForCausalLM), Dream
    and DiffuCoder (`Dream`, Qwen2ForCausalLM), SDAR (`sdar`, Qwen3ForCausalLM), and models stored
    as one of these stock classes. No code of the checkpoint runs. What `DiffusionDecoder` has to
    know is in the configuration: mask_token_id, shifted, block_length.

    Args:
        path: directory with config.json and safetensors weights, in one file or in parts.
        mask_id: id of the mask token where neither config.json nor the tokenizer names it (SDAR's
            config.json may not), or instead of it.
        eos_token_id: ids that end a text, instead of those in the checkpoint.
        block_length: of a block-causal model where config.json does not name it, or instead of it.
        rope_scale: factor on rope_theta, for texts longer than in training (see `ntk_scale`).
        dtype: of the weights; "auto" keeps that of the checkpoint.
        device: where to put the model; None leaves it on the CPU.

    Returns:
        The transformers model in evaluation mode.

    Raises:
        ValueError: an unreadable or unknown config.json, a causal model, no mask id, no block
            length of a block-causal model, weights that are missing, broken or of other shapes.
    """
    path = Path(path)
    stored = read_json(path / "config.json")
    kind = stored.get("model_type")
    if kind not in LAYOUTS:
        raise refusal(path, f"expected model_type {', '.join(LAYOUTS)}, got {kind}")
    if stored.get("is_causal", False) and kind != "Dream":
        raise refusal(path, "expected is_causal false, got a causal model")
    if not rope_scale >= 1:
        raise ValueError(f"load_diffusion: rope_scale: expected a number >= 1, got {rope_scale}")
    layout = LAYOUTS[kind]
    try:
        config = layout.config(stored)
    except KeyError as error:
        raise refusal(path, f"config.json: missing {error}") from error
    except (TypeError, ValueError) as error:
        raise refusal(path, f"{error}") from error
    config.is_causal = False
    config.rope_parameters["rope_theta"] *= rope_scale
    _name_ids(config, path, mask_id, eos_token_id, block_length)
    weights = read_weights(path, layout.rename, dtype)
    model = fill(lambda: AutoModelForCausalLM.from_config(config), weights, path)
    model.generation_config = _generation(config, path, eos_token_id)
    return (model if device is None else model.to(device)).eval()


def _name_ids(
    config: Any,
    path: Path,
    mask_id: int | None,
    eos_token_id: int | list[int] | None,
    block_length: int | None,
) -> None:
    if mask_id is not None:
        config.mask_token_id = mask_id
    elif getattr(config, "mask_token_id", None) is None:
        config.mask_token_id = tokenizer_mask(path)
    mask = config.mask_token_id
    if mask is None:
        raise refusal(
            path,
            "expected mask_token_id in config.json, a mask_token of the tokenizer or the argument "
            "mask_id, got none",
        )
    if not 0 <= mask < config.vocab_size:
        raise refusal(path, f"expected a mask id below {config.vocab_size}, got {mask}")
    if eos_token_id is not None:
        config.eos_token_id = eos_token_id
    if block_length is not None:
        config.block_length = block_length
    if getattr(config, "block_causal", False) and not getattr(config, "block_length", None):
        raise refusal(
            path,
            "expected block_size in config.json or the argument block_length of a "
            "block-causal model, got neither",
        )


def _generation(config: Any, path: Path, eos_token_id: int | list[int] | None) -> GenerationConfig:
    """Ids of ends and padding, of generation_config.json where there is one."""
    ids = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    if (path / "generation_config.json").exists():
        stored = read_json(path / "generation_config.json")
        ids |= {name: stored[name] for name in ids if stored.get(name) is not None}
    if eos_token_id is not None:
        ids["eos_token_id"] = eos_token_id
    return GenerationConfig(**ids)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a checkpoint with its chat template, without running code from it.

    Args:
        path: directory with tokenizer.json, or with vocab.json and merges.txt (Dream), and
            tokenizer_config.json.

    Returns:
        A transformers tokenizer.

    Raises:
        ValueError: no tokenizer files.
    """
    path = Path(path)
    if (path / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(path)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return Qwen2Tokenizer.from_pretrained(path)
    raise ValueError(
        f"load_tokenizer: {path}: expected tokenizer.json, or vocab.json and merges.txt, "
        "got neither"
    )
