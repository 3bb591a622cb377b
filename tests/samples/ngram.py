"""Samples of the ngram room."""

import torch

from samples import Sample


def match(
    batch, capacity, k, vocab, *, dtype=torch.int64, layout="plain", fill="ragged", **options
):
    def make(device):
        g = torch.Generator().manual_seed(capacity * 10 + vocab)
        tokens = torch.randint(0, vocab, (batch, capacity), generator=g, dtype=dtype)
        low = 0 if fill == "ragged" else capacity
        length = torch.randint(low, capacity + 1, (batch,), generator=g)
        if layout == "slice":
            wide = torch.full((batch, capacity + 5), 3, dtype=dtype, device=device)
            wide[:, 2 : capacity + 2] = tokens.to(device)
            return (wide[:, 2 : capacity + 2], length.to(device), k), options
        if layout == "transposed":
            return (tokens.t().contiguous().to(device).t(), length.to(device), k), options
        return (tokens.to(device), length.to(device), k), options

    return make


SAMPLES = {
    "ngram_match": [
        Sample("two-symbols", match(5, 40, 4, 2)),
        Sample("empty-batch", match(0, 9, 3, 4)),
        Sample("no-history", match(3, 0, 3, 4)),
        Sample("one-token", match(3, 1, 3, 4)),
        Sample("no-draft", match(3, 9, 0, 2)),
        Sample("whole", match(7, 33, 5, 3, whole=True)),
        Sample("whole-constant", match(3, 20, 4, 1, whole=True)),
        Sample("latest", match(7, 50, 6, 3, latest=True, dtype=torch.int32)),
        Sample("least-2", match(6, 37, 3, 5, least=2, most=5, layout="slice")),
        Sample("transposed", match(4, 21, 3, 3, layout="transposed")),
        Sample("long", match(2, 5000, 10, 20, most=4, fill="full")),
    ],
}
