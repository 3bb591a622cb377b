"""What a step allocates: the logits of its rows, once, and nothing else of their size."""

from functools import cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import prompts
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import DualCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling

VOCAB, MASK = 1024, 1023
BATCH, BLOCK = 2, 48  # rows of logits outweigh every hidden state and every weight
SAMPLINGS = {
    "greedy": {},
    "drawn": {"temperature": 0.7},
    "filtered": {"temperature": 0.7, "sampling": Sampling(top_p=0.9, top_k=20)},
    "biased": {"sampling": Sampling(suppress=(5,), bias={3: -2.0}, unranked=(4,))},
    "bf16": {"sampling": Sampling(numerics="bf16")},
    "fp64": {"sampling": Sampling(numerics="fp64"), "temperature": 0.7},
}
POLICIES = [  # two steps each
    u.Threshold(1e-6),
    u.Factor(1e3, last_too=True),
    u.EosDamping(u.LowConfidence(2), (3, 4)),
    u.Dream(2, "entropy"),
    u.Dimple(0.3, 2),
    u.Credit(u.LowConfidence(2)),
    u.Stable(1e-6, divergence=1e6, history=1),
    u.Prophet(u.LowConfidence(2)),
]


class Large(TorchDispatchMode):
    """Notes the ops whose results are new memory of a given number of elements or more."""

    def __init__(self, numel, known):
        super().__init__()
        self.numel, self.known, self.made = numel, set(known), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_tensor(t)
        }
        out = func(*args, **kwargs or {})
        for t in filter(is_tensor, tree_leaves(out)):
            where = t.untyped_storage().data_ptr()
            if t.numel() >= self.numel and where not in given | self.known:
                self.made.append(func.name().split("::")[1])
        return out


def is_tensor(value):
    return isinstance(value, torch.Tensor)


@cache
def model():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, is_causal=False, initializer_range=0.2,
        eos_token_id=None, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("guidance", [0.0, 1.5], ids=["plain", "guided"])
@pytest.mark.parametrize("options", SAMPLINGS.values(), ids=SAMPLINGS)
def test_no_tensor_of_the_size_of_the_logits_but_the_logits(options, guidance):
    ids, mask = prompts(BATCH, 5, seed=1, ragged=True)
    known = [t.untyped_storage().data_ptr() for t in (*model().parameters(), *model().buffers())]
    for policy in POLICIES:
        decoder = DiffusionDecoder(model(), policy, cache=DualCache(), mask_id=MASK)
        with Large(BATCH * BLOCK * VOCAB, known) as large:
            out = decoder.generate(ids, mask, gen_length=BLOCK, guidance=guidance, **options)
        heads = 2 if guidance else 1
        assert large.made == ["linear"] * (heads * out.stats.forwards), policy
