"""The numbers that this project set itself, and whether a run reached them."""

from typing import NamedTuple


class Target(NamedTuple):
    """A bound on one field of every row that fits."""

    what: str
    device: str
    op: str
    case: str  # part of the row's name
    field: str
    least: float
    baseline: str = ""  # part of the name of one baseline, whose own ratio counts


TARGETS = (
    Target(
        "8x the eager step, fp32", "cpu", "vocab_stats", "126464] k=1 fp32", "ratio", 8.0, "argmax"
    ),
    Target(
        "16x the eager step, bf16", "cpu", "vocab_stats", "126464] k=1 bf16", "ratio", 16, "argmax"
    ),
    Target(
        "80 % of the read bandwidth", "cpu", "vocab_stats", "[81,128256] k=8 fp32", "of_bound", 0.8
    ),
    Target("8x the eager step, fp32", "cpu", "unmask step", "fp32", "ratio", 8.0, "eager step"),
    Target("16x the eager step, bf16", "cpu", "unmask step", "bf16", "ratio", 16.0, "eager step"),
    Target("25x its float64 variant", "cpu", "unmask step", "", "ratio", 25.0, "float64"),
    Target("twice the time of one read", "cpu", "vocab_sample", "[16", "of_bound", 0.5),
    Target("10x the reference", "cpu", "tree_verify_sample", "", "ratio", 10.0, "reference"),
    Target("1.05 x density x dense SDPA", "cpu", "attn_sparse", "fp32 dense", "ratio", 1 / 1.05),
    Target("1.6x FlexAttention", "cpu", "attn_sparse", "flex", "ratio", 1.6),
    Target("85 % of the memory rate", "cuda", "vocab_stats", "126464]", "of_bound", 0.85),
    Target("1.10 x density x dense SDPA", "cuda", "attn_sparse", "L=65536", "ratio", 1 / 1.10),
    Target("1.15 x density x dense SDPA", "cuda", "attn_sparse", "L=16384", "ratio", 1 / 1.15),
    Target("1.33 x density x dense SDPA", "cuda", "attn_sparse", "L=4096 ", "ratio", 1 / 1.33),
    Target(
        "5 % of one dense attention", "cuda", "attn_block_mass", "L=65536", "ratio", 20.0, "dense"
    ),
    Target("80 % of dense attention's rate", "cuda", "attn_tree, dense work", "", "ratio", 0.8),
)


def value(row: dict, target: Target) -> float | None:
    """The row's figure; None where the row or its baseline is another one."""
    if row["device"] != target.device or row["op"] != target.op or target.case not in row["case"]:
        return None
    if not target.baseline:
        return row[target.field]
    found = [b for name, b in row["baselines"].items() if target.baseline in name]
    return found[0][target.field] if found else None


def shown(figure: float, target: Target) -> str:
    return f"{figure:.0%}" if target.field == "of_bound" else f"{figure:.2f}x"


def targets(rows: list[dict]) -> list[str]:
    """A Markdown table; the rows decide, the worst of them first. Nothing where no row fits."""
    lines = []
    for target in TARGETS:
        found = [(v, row["case"]) for row in rows if (v := value(row, target)) is not None]
        if not found:
            continue
        worst, case = min(found)
        reached = sum(v >= target.least for v, _ in found)
        lines.append(
            f"| `{target.op}` | {target.what} | {shown(target.least, target)} | "
            f"{reached} of {len(found)} | {shown(worst, target)}, {case} |"
        )
    if not lines:
        return []
    head = ["| op | target | at least | rows that reach it | worst row |", "|---|---|---|---|---|"]
    return ["### Targets", "", *head, *lines, ""]
