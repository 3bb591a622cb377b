"""The table that a bench of ops prints as it goes."""

COLUMNS = "op", "case", "cache", "us", "spread", "of bound", "ratio", "baseline us", "baseline"
WIDTHS = 22, 42, 6, 10, 6, 8, 15, 11, 30


def table_line(cells: list[str]) -> str:
    left = {0, 1, 2, len(cells) - 1}
    return "  ".join(
        cell.ljust(w) if i in left else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, WIDTHS, strict=True))
    ).rstrip()


def cells(row: dict) -> list[str]:
    """A row of the table on the screen."""
    shown = f"{row['ratio']:.2f} {row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
    return [
        *(row["op"], row["case"], row["cache"], f"{row['us']:.1f}", f"{row['spread']:.0%}"),
        *(f"{row['of_bound']:.0%}" if row["bound_us"] else "", shown),
        *(f"{row['baseline_us']:.1f}", row["baseline"]),
    ]
