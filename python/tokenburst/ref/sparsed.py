"""The block pattern of SparseD in plain torch, one sequence at a time."""

import torch
from torch import Tensor


def parts(
    prompt_len: Tensor | None, kv_len: Tensor | None, b: int, length: int, block: int
) -> tuple[int, int, int]:
    """Real rows of sequence b, its blocks, and the first block of the generated part."""
    rows = length if kv_len is None else int(kv_len[b])
    prompt = 0 if prompt_len is None else int(prompt_len[b])
    blocks = -(-rows // block)
    return rows, blocks, max(0, min(-(-prompt // block), blocks - 1))


def block_sums(shares: Tensor, block: int, n: int) -> Tensor:
    """[H, n, n] sums of shares [H, rows, keys] over blocks, padded with zeros."""
    heads, rows, keys = shares.shape
    whole = torch.nn.functional.pad(shares, (0, n * block - keys, 0, n * block - rows))
    return whole.view(heads, n, block, n, block).sum((2, 4))


def attn_block_mass(
    q: Tensor,
    k: Tensor,
    block: int,
    *,
    prompt_len: Tensor | None = None,
    kv_len: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Two softmaxes in float64, summed over blocks; see `tokenburst.ops.attn_block_mass`."""
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    scale = dim**-0.5 if scale is None else scale
    n = -(-length // block)
    prefix, generation = (torch.zeros(batch, heads, n, n, device=q.device) for _ in range(2))
    for b in range(batch):
        rows, _, split = parts(prompt_len, kv_len, b, length, block)
        keys = k[b, :, :rows].double().repeat_interleave(group, 0)
        scores = q[b, :, :rows].double() @ keys.transpose(1, 2) * scale
        scores = scores.where(~scores.isnan(), -torch.inf)
        prefix[b] = block_sums(scores.softmax(-1).nan_to_num(0.0), block, n)
        scores[:, :, : split * block] = -torch.inf
        generation[b] = block_sums(scores.softmax(-1).nan_to_num(0.0), block, n)
    return prefix, generation


def kept(mass: Tensor, keep: float) -> Tensor:
    """Which of the last dimension's m masses are among the int(m * keep) + 1 largest."""
    m = mass.shape[-1]
    order = mass.nan_to_num(0.0).clamp(min=0).sort(dim=-1, descending=True, stable=True).indices
    chosen = order[..., : min(m, int(m * keep) + 1)]
    return torch.zeros_like(mass, dtype=torch.bool).scatter(-1, chosen, True)


def attn_select_blocks(
    prefix_mass: Tensor,
    generation_mass: Tensor,
    length: int,
    block: int,
    keep: float,
    *,
    prompt_len: Tensor | None = None,
    kv_len: Tensor | None = None,
) -> Tensor:
    """The largest masses of either part as bits; see `tokenburst.ops.attn_select_blocks`."""
    batch, heads, n, _ = prefix_mass.shape
    flags = prefix_mass.new_zeros(batch, heads, n, (n + 31) // 32 * 32, dtype=torch.int64)
    for b in range(batch):
        _, m, split = parts(prompt_len, kv_len, b, length, block)
        flags[b, :, :m, :split] = kept(prefix_mass[b, :, :m, :m], keep)[..., :split].long()
        flags[b, :, :m, split:m] = kept(generation_mass[b, :, :m, split:m], keep).long()
    words = (
        flags.unflatten(-1, ((n + 31) // 32, 32)) << torch.arange(32, device=flags.device)
    ).sum(-1)
    return words.to(torch.int32)
