"""Masked diffusion models from local checkpoints of stock transformers classes."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from tokenburst.models.attention import SUPPORTED


def load_diffusion(
    path: str | Path, *, mask_id: int | None = None, dtype: Any = "auto", device: Any = None
) -> Any:
    """Load a masked diffusion language model that is stored as a stock causal LM.

    The model sees in both directions (config.is_causal is False) and knows its mask token
    (config.mask_token_id), as `DiffusionDecoder` expects.

    Args:
        path: directory with config.json and weights.
        mask_id: id of the mask token where config.json does not name it.
        dtype: of the weights; "auto" keeps that of the checkpoint.
        device: where to put the model; None leaves it on the CPU.

    Returns:
        The transformers model in evaluation mode.

    Raises:
        ValueError: no readable config.json, an unsupported architecture, a causal model, or no mask
            id.
    """
    path = Path(path)
    try:
        stored = json.loads((path / "config.json").read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"load_diffusion: {path}: no readable config.json ({error})") from error
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if kind not in SUPPORTED:
        raise ValueError(
            f"load_diffusion: {path}: expected model_type {', '.join(SUPPORTED)}, got {kind}"
        )
    if stored.get("is_causal", False):
        raise ValueError(f"load_diffusion: {path}: expected is_causal false, got a causal model")
    config = AutoConfig.from_pretrained(path)
    config.is_causal = False
    if mask_id is not None:
        config.mask_token_id = mask_id
    if getattr(config, "mask_token_id", None) is None:
        raise ValueError(
            f"load_diffusion: {path}: expected mask_token_id in config.json or as the argument "
            "mask_id, got neither"
        )
    model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype)
    return (model if device is None else model.to(device)).eval()
