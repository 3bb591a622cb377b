"""What both decoders share: prompts in, sequences out, and flags read late."""

from collections.abc import Sequence

import torch
from torch import Tensor

# CPU matrix products may round the last one to three rows of a thread's share differently when the
# number of rows is no multiple of four. Whole groups of four give a row the same bits beside any
# other rows and under any number of threads.
ROW_GROUP = 4


def whole(rows: int) -> int:
    """`rows` rounded up to whole groups."""
    return -(-rows // ROW_GROUP) * ROW_GROUP


def pack_prompts(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ragged prompts moved to the left edge.

    Args:
        input_ids: [B, P] int64, padded on either side as tokenizers do.
        attention_mask: [B, P], non-zero at real tokens; None = all are real.

    Returns:
        ids [B, P] int64 with each row's real tokens first, and their number [B] int32.

    Raises:
        ValueError: wrong shape or dtype, or a row without a real token.
    """
    if input_ids.dim() != 2 or input_ids.dtype != torch.int64:
        got = f"{input_ids.dtype} {tuple(input_ids.shape)}"
        raise ValueError(f"generate: input_ids: expected int64 [batch, length], got {got}")
    if attention_mask is None:
        full = torch.full((len(input_ids),), input_ids.shape[1], dtype=torch.int32)
        lengths = full.to(input_ids.device)
    else:
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"generate: attention_mask: expected shape {tuple(input_ids.shape)}, "
                f"got {tuple(attention_mask.shape)}"
            )
        real = attention_mask.to(input_ids.device) != 0
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        input_ids, lengths = input_ids.gather(1, order), real.sum(1, dtype=torch.int32)
    if input_ids.shape[1] == 0 or (len(lengths) and int(lengths.min()) < 1):
        raise ValueError("generate: input_ids: expected at least one token in each row, got none")
    return input_ids, lengths


def check_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    """ValueError unless every id lies in 0 .. vocab_size - 1."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(
            f"generate: {name}: expected ids in 0..{vocab_size - 1}, "
            f"got {int(ids.min())}..{int(ids.max())}"
        )


class LateFlag:
    """Reads a one-element device flag without stopping the device.

    On the CPU the answer is the present one. On a GPU each call starts a copy to pinned memory and
    answers from the copy started before, if that has arrived: a decoder then runs a step or two
    past the end, which changes nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._host = torch.zeros((), dtype=torch.bool, pin_memory=self._on_gpu)
        self._copied: torch.cuda.Event | None = None  # set while a copy is under way
        self._value = False

    def __call__(self, flag: Tensor) -> bool:
        if not self._on_gpu:
            return bool(flag)
        if self._copied is not None and self._copied.query():
            self._value = bool(self._host)
            self._copied = None
        if self._copied is None:
            self._host.copy_(flag.reshape(()), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        return self._value


def end_tokens(
    model: torch.nn.Module, eos_token_id: int | Sequence[int] | None, pad_token_id: int | None
) -> tuple[list[int], int]:
    """Eos ids and the pad id: as given, else as the model's generation config has them."""
    config = getattr(model, "generation_config", None)
    if eos_token_id is None:
        eos_token_id = getattr(config, "eos_token_id", None)
    if isinstance(eos_token_id, int):
        eos_token_id = [eos_token_id]
    eos = list(eos_token_id or [])
    if pad_token_id is None:
        pad_token_id = getattr(config, "pad_token_id", None)
    return eos, pad_token_id if pad_token_id is not None else (eos[0] if eos else 0)
