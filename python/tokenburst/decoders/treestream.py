"""Tokens as they come, to transformers' streamers."""

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


class TokenStream:
    """A callback of `TreeDecoder` that feeds a streamer the new tokens of a single sequence.

    A step's tokens are read when the step after it has been launched, so that a GPU has work while
    the host waits; on a CPU at once.

    Args:
        streamer: of transformers.
        prompt: [1, P] int64, which streamers want first.

    Raises:
        ValueError: more than one sequence, which streamers cannot tell apart.
    """

    def __init__(self, streamer: BaseStreamer, prompt: Tensor) -> None:
        if len(prompt) != 1:
            raise ValueError(f"generate: streamer: expected one sequence, got {len(prompt)}")
        self._streamer = streamer
        self._sent = 0
        self._waiting: tuple[Tensor, Tensor] | None = None
        streamer.put(prompt.cpu())

    def __call__(self, tokens: Tensor, counts: Tensor) -> None:
        if tokens.device.type == "cpu":
            self._send(tokens, counts)
            return
        if self._waiting is not None:
            self._send(*self._waiting)
        self._waiting = tokens, counts

    def end(self, tokens: Tensor, counts: Tensor) -> None:
        """The final tokens."""
        self._send(tokens, counts)
        self._streamer.end()

    def _send(self, tokens: Tensor, counts: Tensor) -> None:
        total = int(counts[0])
        if total > self._sent:
            self._streamer.put(tokens[0, self._sent : total].cpu())
            self._sent = total
