"""Toy models of the distribution tests: targets p, drafts q, trees drawn from them in a batch."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from tokenburst import ops

T3 = (torch.tensor([0.3, 0.3, 0.4]), torch.tensor([0.6, 0.3, 0.1]))
T4A = (torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1]))
# Two levels: T3 at the root, then one row per first token.
P2 = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6]])
Q2 = torch.tensor([[0.3, 0.4, 0.3], [0.2, 0.3, 0.5], [0.6, 0.2, 0.2]])
T3X2_JOINT = T3[0][:, None] * P2


def draft(q: Tensor, k: int, salt: int, replacement: bool = False) -> Tensor:
    """k tokens [n, k] of each row of q [n, V]; `salt` tells calls apart."""
    n = len(q)
    rng = torch.stack([torch.full((n,), 17), torch.arange(n)], 1)
    rng = torch.cat([rng, torch.tensor([[salt, 3]]).expand(n, 2)], 1)
    return ops.vocab_sample(q.log(), k, torch.ones(n), rng, replacement=replacement).ids


def star(toy, tokens: Tensor) -> dict:
    """Arguments of one verification per row of tokens [n, k], all of them siblings."""
    p, q = toy
    n, k = tokens.shape
    return {
        "tokens": torch.cat([torch.zeros(n, 1, dtype=torch.int64), tokens], 1),
        "parent": torch.tensor([-1] + [0] * k).expand(n, k + 1),
        "n_nodes": torch.full((n,), k + 1),
        "logits": p.log().expand(n, k + 1, len(p)),
        "draft_logits": q.log().expand(n, 1, len(q)),
        "draft_row": torch.zeros(n, k + 1, dtype=torch.int64),
    }


def two_levels(first: Tensor, second: Tensor) -> dict:
    """Arguments for T3x2: first [n, a] below the root, second [n, a, c] below those."""
    n, a, c = second.shape
    parent = [-1] + [0] * a + [1 + i // c for i in range(a * c)]
    flat = second.reshape(n, a * c)
    leaf = T3[0].expand(n, a * c, 3)
    return {
        "tokens": torch.cat([torch.zeros(n, 1, dtype=torch.int64), first, flat], 1),
        "parent": torch.tensor(parent).expand(n, len(parent)),
        "n_nodes": torch.full((n,), len(parent)),
        "logits": torch.cat([T3[0].expand(n, 1, 3), P2[first], leaf], 1).log(),
        "draft_logits": torch.cat([T3[1].expand(n, 1, 3), Q2[first]], 1).log(),
    }


def streams(n: int, seed: int = 5, position: int = 100) -> Tensor:
    """One stream of random numbers per row."""
    return torch.stack([torch.full((n,), seed), torch.arange(n), torch.full((n,), position)], 1)


def verify(mode: str, args: dict, **kwargs):
    """The op on the arguments that the builders above make."""
    args = dict(args)
    first = [args.pop(name) for name in ("tokens", "parent", "n_nodes", "logits")]
    rng = kwargs.pop("rng", streams(len(first[0])))
    return ops.tree_verify_sample(*first, mode, rng, **args, **kwargs)


def emitted(out, tokens: Tensor, count: int) -> Tensor:
    """The first tokens [n, count] that a verification wrote, -1 beyond its last one."""
    path = out.path[:, 1 : count + 1].long()
    path = torch.nn.functional.pad(path, (0, count - path.shape[1]), value=-1)
    drafted = tokens.gather(1, path.clamp(min=0))
    place = torch.arange(1, count + 1)
    last = torch.where(place == out.n_accepted[:, None], out.next_token[:, None], -1)
    return torch.where(place < out.n_accepted[:, None], drafted, last)


def chi2(observed: Tensor, p: Tensor) -> float:
    """Chi-square statistic of token ids against probabilities, over its 5-sigma limit."""
    p = p.flatten().double()
    counts = torch.bincount(observed, minlength=len(p)).double()
    expected = p * len(observed)
    freedom = int((p > 0).sum()) - 1
    statistic = ((counts - expected)[p > 0] ** 2 / expected[p > 0]).sum()
    if counts[p == 0].sum() > 0:
        return float("inf")
    return float(statistic) / (freedom + 5 * (2 * freedom) ** 0.5)


def close(count: int, n: int, probability: float) -> bool:
    """Whether a number of successes is within 4.5 sigma of n * probability."""
    return abs(count - n * probability) < 4.5 * (n * probability * (1 - probability)) ** 0.5 + 1


def small_model(vocab: int) -> torch.nn.Module:
    """A random model over a vocabulary that can be enumerated."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.7,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


def text_law(model, prompt: Tensor, length: int, vocab: int, heat: float) -> Tensor:
    """Probability of each of the vocab ** length continuations, by enumeration."""
    grid = torch.cartesian_prod(*[torch.arange(vocab)] * length)
    ids = torch.cat([prompt.expand(len(grid), -1), grid], 1)
    with torch.no_grad():
        logp = (model(ids).logits.double() / heat).log_softmax(-1)
    taken = logp[:, prompt.shape[1] - 1 : -1].gather(2, grid[:, :, None])
    return taken.sum((1, 2)).exp()
