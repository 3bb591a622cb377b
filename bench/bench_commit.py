"""After a draft tree: moving the accepted rows of all caches."""

import torch

from harness import Case, main, nbytes, short
from shapes import MODELS
from tokenburst import ops


def commit_eager(caches, kv_len, path):
    rows = kv_len + path
    for cache in caches:
        cache[:, :, kv_len : kv_len + len(path)] = cache.index_select(2, rows)


def commit(layers, heads, dim, dtype, device):
    kv_len, path = 1000, torch.tensor([0, 3, 17, 45], device=device)
    caches = [
        torch.randn(1, heads, 1100, dim, device=device, dtype=dtype) for _ in range(2 * layers)
    ]
    ragged = [torch.tensor(x, device=device) for x in ([kv_len], [path.tolist()], [len(path)])]

    def ours():
        ops.tree_commit_kv_(caches[:layers], caches[layers:], *ragged)

    def check():
        want = [cache.clone() for cache in caches]
        commit_eager(want, kv_len, path)
        ours()
        assert all(torch.equal(a, b) for a, b in zip(caches, want, strict=True))

    return Case(
        "tree_commit_kv_",
        f"{layers} layers H={heads} D={dim} accepted=4 {short(dtype)}",
        ours,
        {"index_select per cache": lambda: commit_eager(caches, kv_len, path)},
        check,
        moved=2 * nbytes(*caches) * len(path) // 1100,
        dtype=dtype,
    )


def cases(device):
    s = MODELS["Llama-3-8B"]
    for dtype in (torch.float32, torch.bfloat16):
        yield commit(s.layers, s.kv_heads, s.head_dim, dtype, device)


if __name__ == "__main__":
    main(cases)
