"""Our caches inside stock models."""

import torch

from tiny import tiny_model
from tokenburst.models.cache import RowCache, cache_argument


class Old(torch.nn.Module):
    def forward(self, input_ids, past_key_values=None, **kwargs):
        return past_key_values


class New(torch.nn.Module):
    def forward(self, input_ids, cache=None, **kwargs):
        return cache


def test_a_forward_gets_the_cache_by_the_name_that_it_has_for_it():
    config = tiny_model("llama", torch.float32, True).config
    cache = RowCache(config, 1, 4, torch.float32, torch.device("cpu"))
    for model in (Old(), New()):
        assert model(None, **cache_argument(model, cache)) is cache
