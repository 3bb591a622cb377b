"""Prompt lookup over long histories."""

import torch

from harness import Case, main, nbytes
from tokenburst import ops


def lookup_eager(tokens, k, most):
    """The search of the published implementations: windows of n tokens, batch 1, one sync per n."""
    size = tokens.shape[1]
    for n in range(most, 0, -1):
        windows = tokens.unfold(1, n, 1)
        hits = (windows == tokens[0, size - n :]).all(2)[0, : size - n].nonzero()
        if len(hits):
            start = int(hits[0]) + n
            return tokens[0, start : start + k]
    return tokens[0, :0]


def match(length, dtype, device):
    # The 3-gram at the end has stood in the middle once; its last token alone is frequent.
    tokens = torch.randint(0, 1000, (1, length), device=device, dtype=dtype)
    tokens[0, length // 2 : length // 2 + 3] = tokens[0, -3:] = torch.tensor([1001, 1002, 7])
    count = torch.tensor([length], device=device)

    def ours():
        return ops.ngram_match(tokens, count, 10)

    def eager():
        return lookup_eager(tokens, 10, 3)

    def check():
        assert torch.equal(ours().draft[0], eager().long())

    name = f"B=1 L={length} k=10 {str(dtype).removeprefix('torch.')}"
    return Case("ngram_match", name, ours, {"unfold and compare": eager}, check, nbytes(tokens) // 2)


def cases(device):
    yield match(4096, torch.int64, device)
    yield match(131072, torch.int64, device)
    yield match(131072, torch.int32, device)


if __name__ == "__main__":
    main(cases)
