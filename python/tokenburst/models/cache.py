"""A preallocated KV cache whose rows are written where each sequence stands."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin


@functools.cache
def _cache_name(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def cache_argument(model: torch.nn.Module, cache: Cache) -> dict[str, Any]:
    """`cache` by the name that the model's forward has for it.

    transformers renames `past_key_values` to `cache`.
    """
    return {_cache_name(type(model).forward): cache}


class _TreeLayer(CacheLayerMixin):
    """One layer: [B, H, S, D] views of [B * S, H * D] memory, so a token is one row copy."""

    def __init__(self, owner: "TreeCache", shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        batch, heads, length, dim = shape
        self._owner, self._shape = owner, shape
        size = batch * length, heads * dim
        memory = [torch.zeros(size, dtype=owner.dtype, device=owner.device) for _ in "kv"]
        self._view(memory, batch)
        self.is_initialized = True

    def _view(self, memory: list[Tensor], batch: int) -> None:
        _, heads, length, dim = self._shape
        self._shape = batch, heads, length, dim
        self._width = heads * dim
        self._rows = [m.view(batch * length, self._width) for m in memory]
        self.keys, self.values = (
            r.view(batch, length, heads, dim).transpose(1, 2) for r in self._rows
        )

    def move(self, to: Tensor, order: Tensor) -> None:
        """Sequence to[i] becomes what order[i] was."""
        for rows in self._rows:
            whole = rows.view(self._shape[0], -1)
            whole[to] = whole[order]

    def narrow(self, batch: int) -> None:
        """The first `batch` sequences are seen from now on."""
        _, heads, length, dim = self._shape
        self.keys, self.values = (
            r.view(-1, length, heads, dim)[:batch].transpose(1, 2) for r in self._rows
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the cache is allocated when it is made."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        (keys, values), at, width = self._rows, self._owner.rows, self._width
        keys.index_copy_(0, at, key_states.transpose(1, 2).reshape(-1, width))
        values.index_copy_(0, at, value_states.transpose(1, 2).reshape(-1, width))
        return self.keys, self.values

    def keep(self, sequences: Tensor) -> None:
        """Forget all sequences but these, [n] int64."""
        self._view([r.view(self._shape[0], -1)[sequences] for r in self._rows], len(sequences))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._shape[2], 0

    def get_seq_length(self) -> int:
        return 0  # lengths differ by sequence and live on the device: see TreeCache.kv_len

    def get_max_length(self) -> int:
        return self._shape[2]


class TreeCache(Cache):
    """KV of all layers for trees and ragged batches.

    Tokens of one forward go to rows kv_len[b] + i of sequence b, uncommitted until `kv_len` moves.

    Args:
        config: of a Llama-like model.
        batch: number of sequences.
        length: rows per sequence (S); must hold the longest sequence plus one tree.
        dtype, device: of the model.

    Attributes:
        kv_len: [B] int32, committed rows.
        keys, values: per layer [B, H, S, D], with rows of all heads adjacent in memory.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        batch: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dtype, self.device = dtype, device
        self.length = length
        self.kv_len = torch.zeros(batch, dtype=torch.int32, device=device)
        self.rows = torch.zeros(0, dtype=torch.int64, device=device)
        self._first_row = torch.arange(batch, device=device)[:, None] * length
        self._offset = torch.arange(length, device=device)
        self._all = self.kv_len, self._first_row
        shape = (batch, heads, length, dim)
        super().__init__(layers=[_TreeLayer(self, shape) for _ in range(config.num_hidden_layers)])
        self.keys = [layer.keys for layer in self.layers]
        self.values = [layer.values for layer in self.layers]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kw: object
    ) -> tuple[Tensor, Tensor]:
        """What a layer's attention calls: its new rows in, all of its rows out."""
        return self.layers[layer_idx].update(key_states, value_states)

    def arrange(self, order: list[int], batch: int) -> None:
        """Sequence i is from now on what order[i] was; only the first `batch` are seen.

        The others stay in memory: a later call may bring them back.
        """
        moved = [i for i, source in enumerate(order) if i != source]
        to = torch.tensor(moved, dtype=torch.int64, device=self.device)
        source = torch.tensor([order[i] for i in moved], dtype=torch.int64, device=self.device)
        kv_len, first_row = self._all
        kv_len[to] = kv_len[source]
        self.kv_len, self._first_row = kv_len[:batch], first_row[:batch]
        for layer in self.layers:
            layer.move(to, source)
            layer.narrow(batch)
        self.keys = [layer.keys for layer in self.layers]
        self.values = [layer.values for layer in self.layers]

    def copy_from(self, other: "TreeCache") -> None:
        """The committed rows of a shorter cache of the same model and batch."""
        self.kv_len.copy_(other.kv_len)
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[:, :, : other.length].copy_(theirs)

    def place(self, n_tokens: int, earlier: int = 0) -> None:
        """The next forward brings `n_tokens` per sequence: fix the rows they are written to.

        `earlier` uncommitted rows of forwards before it are kept.
        """
        rows = self.kv_len[:, None] + self._offset[earlier : earlier + n_tokens]
        self.rows = rows.clamp_(max=self.length - 1).add_(self._first_row).view(-1)


class RowCache(TreeCache):
    """KV of all layers whose rows are positions: a token is written where it stands.

    Args:
        config: of a Llama-like model.
        batch: number of sequences.
        length: positions per sequence; row `length` takes what belongs nowhere.
        dtype, device: of the model.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        batch: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(config, batch, length + 1, dtype, device)

    def place_at(self, positions: Tensor) -> None:
        """The next forward brings tokens of these positions, [B, N] int64 in 0 .. length."""
        self.rows = (self._first_row + positions).view(-1)

    def keep(self, sequences: Tensor) -> None:
        """Forget all sequences but these, [n] int64."""
        for layer in self.layers:
            layer.keep(sequences)
        self._first_row = self._first_row[: len(sequences)]
        self.keys = [layer.keys for layer in self.layers]
        self.values = [layer.values for layer in self.layers]
