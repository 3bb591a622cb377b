"""Callbacks for diffusion decoding: what changed in a step, and text from left to right."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Deltas:
    """A callback that passes on what each step changed.

    Policies that take tokens back change a position more than once; the mask id then comes again.

    Args:
        call: called as call(forwards, row, position, token), three [n] int64 tensors.

    Example:
        >>> decoder.generate(ids, callback=Deltas(lambda n, row, position, token: ...))
    """

    def __init__(self, call: Callable[[int, Tensor, Tensor, Tensor], None]) -> None:
        self._call = call
        self._before: Tensor | None = None

    def __call__(self, forwards: int, sequences: Tensor) -> None:
        before = torch.full_like(sequences, -1) if self._before is None else self._before
        row, position = (sequences != before).nonzero(as_tuple=True)
        self._before = sequences.clone()
        self._call(forwards, row, position, sequences[row, position])


class Stream:
    """A callback that feeds a streamer of transformers: a token goes out, once, when all tokens
    before it are decided.

    For one sequence, and for policies that do not take tokens back.

    Args:
        streamer: has put(ids) and end(), such as `transformers.TextStreamer`.
        prompt_length: tokens of the prompt, which go out first.
        mask_id: the mask token.
        eos_token_id: ids after which nothing goes out.

    Example:
        >>> stream = Stream(TextStreamer(tokenizer), ids.shape[1], model.config.mask_token_id)
        >>> decoder.generate(ids, callback=stream)
        >>> stream.end()
    """

    def __init__(
        self,
        streamer: Any,
        prompt_length: int,
        mask_id: int,
        eos_token_id: Sequence[int] = (),
    ) -> None:
        self._streamer, self._mask_id = streamer, mask_id
        self._prompt_length, self._eos = prompt_length, frozenset(eos_token_id)
        self._sent = 0

    def __call__(self, forwards: int, sequences: Tensor) -> None:
        if len(sequences) != 1:
            raise ValueError(f"Stream: expected one sequence, got {len(sequences)}")
        ids = sequences[0].tolist()
        if not self._sent:
            self._streamer.put(sequences[:, : self._prompt_length].cpu())
            self._sent = self._prompt_length
        start = self._sent
        while self._sent < len(ids) and ids[self._sent] != self._mask_id:
            self._sent += 1
            if ids[self._sent - 1] in self._eos:
                self._streamer.put(torch.tensor(ids[start : self._sent]))
                self._sent = len(ids)
                return
        if self._sent > start:
            self._streamer.put(torch.tensor(ids[start : self._sent]))

    def end(self) -> None:
        """Nothing follows."""
        self._streamer.end()
