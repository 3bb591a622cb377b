"""Comparison of nested results that names the place of the first difference."""

import torch


def _leaves(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path or "output", value
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}[{key!r}]")


def assert_same(op, sample, got, want):
    """Equal structure, dtype, shape and values, bit for bit unless the sample allows a tolerance.

    NaN equals NaN.
    """
    got_leaves, want_leaves = list(_leaves(got)), list(_leaves(want))
    assert len(got_leaves) == len(want_leaves), f"{op}/{sample.id}: number of outputs"
    for index, ((name, a), (_, b)) in enumerate(zip(got_leaves, want_leaves, strict=True)):
        where = f"{op}/{sample.id} {name}"
        assert a.dtype == b.dtype, f"{where}: dtype {a.dtype}, want {b.dtype}"
        assert a.shape == b.shape, f"{where}: shape {tuple(a.shape)}, want {tuple(b.shape)}"
        atol, rtol = sample.fields.get(index, (sample.atol, sample.rtol))
        x, y = a.detach().cpu(), b.detach().cpu()
        if x.is_floating_point():
            x, y = x.double(), y.double()
            same = torch.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
        else:
            same = x == y
        if not bool(same.all()):
            place = tuple((~same).nonzero()[0].tolist())
            wrong = int((~same).sum())
            raise AssertionError(
                f"{where}: {wrong} of {same.numel()} differ, first at {place}: "
                f"got {x[place]}, want {y[place]}"
            )
