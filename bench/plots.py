"""The plots of a results folder; each says what its axes are, what is better, and where it ran.

Needs matplotlib, which the package itself does not.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter


def where(facts: dict) -> str:
    """One line about the machine for the foot of a figure."""
    name = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    return f"{name}, torch {facts['torch']}, {facts['date'][:10]}, commit {facts['revision']}"


def save(figure, file: Path, facts: dict) -> None:
    figure.text(0.01, 0.004, where(facts), fontsize=7, color="0.4")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def plain(*axes) -> None:
    """Numbers as they are on logarithmic axes."""
    for axis in axes:
        axis.set_major_locator(LogLocator(10, (1, 2, 5), numticks=12))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def ops(runs: list[dict], file: Path) -> None:
    """Bars per row: against the fastest alternative, and against the limit of the machine."""
    rows = [row for run in runs for row in run["rows"]]
    height = 1.2 + 0.19 * len(rows)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, height), sharey=True, width_ratios=(3, 2)
    )
    y = range(len(rows))
    ratios = [row["ratio"] for row in rows]
    low = [max(0.0, row["ratio"] - row["ratio_low"]) for row in rows]
    high = [max(0.0, row["ratio_high"] - row["ratio"]) for row in rows]
    colours = ["tab:blue" if r >= 1 else "tab:red" for r in ratios]
    left.barh(y, [r - 1 for r in ratios], left=1, color=colours, xerr=[low, high], ecolor="0.4")
    left.set(xscale="log", yticks=y, title="times faster than the fastest alternative in torch")
    left.set_yticklabels([f"{row['op']}  {row['case']}" for row in rows], fontsize=6)
    left.set_xlabel("time of the alternative / time of tokenburst (1 = equal, right is better)")
    left.axvline(1, color="0.2", lw=0.8)
    right.barh(y, [100 * row["of_bound"] for row in rows], color="tab:green")
    right.set(xlim=(0, 110), title="share of what memory or arithmetic allow")
    right.set_xlabel("least possible time / time of tokenburst, % (right is better)")
    right.invert_yaxis()
    plain(left.xaxis)
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
        axis.set_ylim(len(rows) - 0.4, -0.6)
    save(figure, file, runs[0]["meta"])


def generate(run: dict, file: Path) -> None:
    """Bars of tokens per second for each model, with tokens per forward written on them."""
    groups: dict[tuple, list] = {}
    for row in run["rows"]:
        groups.setdefault((row["model"], row["batch"]), []).append(row)
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(9, 0.9 + sum(0.5 + 0.28 * len(g) for g in groups.values())),
        height_ratios=[1 + len(g) for g in groups.values()], squeeze=False,
    )  # fmt: skip
    for axis, ((model, batch), rows) in zip(axes[:, 0], groups.items(), strict=True):
        names = [row["method"] for row in rows]
        speeds = [row["tokens_per_second"] for row in rows]
        ours = ["tab:blue" if name.startswith("tokenburst") else "0.6" for name in names]
        bars = axis.barh(names, speeds, color=ours)
        notes = [f"{row['tokens_per_forward']:.2f} per forward" for row in rows]
        axis.bar_label(bars, notes, fontsize=7, padding=3)
        axis.set(title=f"{model}, batch {batch}", xlim=(0, 1.2 * max(speeds)))
        axis.set_xlabel("tokens per second (right is better)", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
    save(figure, file, run["meta"])


def tree_cost(run: dict, file: Path) -> None:
    """What a wider forward costs, and what that leaves of a draft."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    names = dict.fromkeys((row["model"], row["batch"]) for row in run["rows"])
    for colour, (model, batch) in enumerate(names):
        rows = [r for r in run["rows"] if (r["model"], r["batch"]) == (model, batch)]
        first = rows[0]["us"]
        label = f"{model}, batch {batch} (T(1) = {first / 1e3:.1f} ms)"
        nodes, times = zip(*((r["nodes"], r["us"] / first) for r in rows), strict=True)
        left.plot(nodes, times, "o-", color=f"C{colour}", ms=4, label=label)
        found = [r for r in run["speedups"] if (r["model"], r["batch"]) == (model, batch)]
        for kind, style in (("tree", "-"), ("chain", "--")):
            x, y = zip(*((r["acceptance"], r[f"{kind}_speedup"]) for r in found), strict=True)
            right.plot(x, y, style, color=f"C{colour}", label=f"{kind}s, {model}, batch {batch}")
    left.set(xscale="log", yscale="log", title="cost of scoring a tree of n tokens in one forward")
    left.set(xlabel="n, tokens in the tree", ylabel="T(n) / T(1), time of one plain forward = 1")
    right.set(yscale="log", title="speed-up of a draft that costs nothing, best tree or chain size")
    right.set(
        xlabel="chance that the first guess is right", ylabel="times faster than plain decoding"
    )
    plain(left.xaxis, left.yaxis, right.yaxis)
    for axis in (left, right):
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
        axis.axhline(1, color="0.2", lw=0.8)
    save(figure, file, run["meta"])


def growth(run: dict, file: Path) -> None:
    """A log-log panel per op and size, a dashed line of the growth the work itself has."""
    rows, columns = run["rows"], 5
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(15, 2.7 * lines), squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for row, axis in zip(rows, axes.flat, strict=False):
        sizes = [point["size"] for point in row["points"]]
        times = [point["us"] for point in row["points"]]
        axis.loglog(sizes, times, "o-", ms=4)
        ideal = [times[-1] * (size / sizes[-1]) ** row["exponent"] for size in sizes]
        axis.loglog(sizes, ideal, "--", color="0.6", lw=1)
        plain(axis.yaxis)
        axis.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(f"{row['op']} over {row['axis']}: slope {row['slope']:.2f}", fontsize=8)
        axis.set_xlabel(f"{row['axis']}   ({row['others']})", fontsize=6)
        axis.set_ylabel("microseconds", fontsize=6)
        axis.tick_params(labelsize=6, which="both")
        axis.grid(alpha=0.3)
    figure.suptitle(
        "time over size; dashed: proportional to the work (slope 1, or 2 where marked so)"
    )
    save(figure, file, run["meta"])
