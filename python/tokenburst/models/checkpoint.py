"""Weights from safetensors files into a stock model, every tensor accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def refusal(where: Path, text: str) -> ValueError:
    """What is wrong with a checkpoint, to be raised."""
    return ValueError(f"load_diffusion: {where}: {text}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: no such file, or something else in it.
    """
    try:
        stored = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise refusal(path.parent, f"no readable {path.name} ({error})") from error
    if not isinstance(stored, dict):
        raise refusal(path, f"expected a JSON object, got {type(stored).__name__}")
    return stored


def tokenizer_mask(folder: Path) -> int | None:
    """Id of the mask token that tokenizer_config.json names; None where none is named or found."""

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).exists() else {}

    def content(token: Any) -> Any:
        return token.get("content") if isinstance(token, dict) else token

    stored = read("tokenizer_config.json")
    mask = content(stored.get("mask_token"))
    if not isinstance(mask, str):
        return None
    ids: dict[Any, Any] = {}
    for added in read("tokenizer.json").get("added_tokens") or []:
        ids[content(added)] = added.get("id") if isinstance(added, dict) else None
    ids |= read("added_tokens.json")
    for number, added in (stored.get("added_tokens_decoder") or {}).items():
        ids[content(added)] = int(number) if str(number).isdecimal() else None
    return ids[mask] if isinstance(ids.get(mask), int) else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        ValueError: there are none, or a part that the index names is missing.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise refusal(
            folder, f"expected {SINGLE} or {INDEX}, got neither (pickled weights are not read)"
        )
    parts = read_json(folder / INDEX).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise refusal(folder / INDEX, "expected a weight_map of names to files")
    names = sorted(set(parts.values()))
    if outside := [n for n in names if Path(n).name != n]:
        raise refusal(folder / INDEX, f"expected files beside it, got {outside}")
    if missing := [n for n in names if not (folder / n).exists()]:
        raise refusal(folder, f"missing {', '.join(missing)}, named in {INDEX}")
    return [folder / n for n in names]


def read_weights(folder: Path, rename: Callable[[str], str], dtype: Any) -> dict[str, Tensor]:
    """All tensors of a checkpoint under new names.

    Args:
        folder: of the checkpoint.
        rename: stored name -> name in the stock model.
        dtype: of the result; "auto" keeps each tensor's own.

    Raises:
        ValueError: files that are missing or broken, or two tensors of one name.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for stored in file.keys():  # noqa: SIM118 (not a dict)
                    name = rename(stored)
                    if name in weights:
                        raise refusal(path, f"a second tensor {stored}")
                    tensor = file.get_tensor(stored)
                    weights[name] = tensor if dtype == "auto" else tensor.to(dtype)
        except (SafetensorError, OSError) as error:
            raise refusal(path, f"broken or truncated ({error})") from error
    return weights


def fill(make: Callable[[], Any], weights: dict[str, Tensor], folder: Path) -> Any:
    """A model made of the weights, none missing and none left over.

    Args:
        make: builds the model; called where tensors take no memory.
        weights: by the model's names.
        folder: for messages.

    Raises:
        ValueError: missing, unknown or wrongly shaped tensors.
    """
    with torch.device("meta"):
        model = make()
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        weights.pop("lm_head.weight", None)
    weights = {n: t for n, t in weights.items() if not n.endswith("rotary_emb.inv_freq")}
    wrong = [
        f"{n}: expected {wanted[n]}, got {tuple(weights[n].shape)}"
        for n in sorted(wanted.keys() & weights.keys())
        if wanted[n] != tuple(weights[n].shape)
    ]
    for what, names in (
        ("missing tensors", sorted(wanted.keys() - weights.keys())),
        ("unknown tensors", sorted(weights.keys() - wanted.keys())),
        ("wrong shapes", wrong),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise refusal(folder, f"{what}: {'; '.join(names[:3])}{more}")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    base = model.base_model
    base.rotary_emb = type(base.rotary_emb)(config=model.config)  # it holds what is computed
    dtypes = {t.dtype for t in weights.values()}
    return model if len(dtypes) == 1 else model.to(weights["model.embed_tokens.weight"].dtype)
