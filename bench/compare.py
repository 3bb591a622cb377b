"""Two runs of the same bench file, row by row.

    python bench/compare.py before.json after.json [--fail]

A row is faster or slower where the quartiles of the two runs do not meet and the medians differ by
more than --least, both in time and against the alternative that ran in turn with it. Where only the
time differs the verdict is unclear: most often it was the machine.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

SAME_MACHINE = "cpu", "gpu", "cores", "threads", "torch", "torch_isa", "isa", "python"


def load(file: Path) -> tuple[dict, dict[tuple, dict]]:
    """Circumstances, and the rows by device, op and case."""
    run = json.loads(file.read_text())
    return run["meta"], {(row["device"], row["op"], row["case"]): row for row in run["rows"]}


def differs(before: float, low: float, high: float, after: dict, key: str, least: float) -> int:
    """1 where `after` lies clearly above, -1 clearly below, 0 where the quartiles meet."""
    change = after[key] / before - 1
    if change > least and after["low" if key == "us" else "ratio_low"] > high:
        return 1
    if change < -least and after["high" if key == "us" else "ratio_high"] < low:
        return -1
    return 0


def verdict(before: dict, after: dict, least: float) -> str:
    """'faster', 'slower', 'same', or 'unclear': our time changed, its ratio did not."""
    time = differs(before["us"], before["low"], before["high"], after, "us", least)
    a = before.get("baselines", {}).get(before.get("baseline"))
    b = after.get("baselines", {}).get(before.get("baseline"))
    if time and a and b:  # both ran in turn with the same alternative
        ratio = differs(a["ratio"], a["ratio_low"], a["ratio_high"], b, "ratio", least)
        if ratio != -time:
            return "unclear"
    return {0: "same", 1: "slower", -1: "faster"}[time]


def baseline_change(pairs: list[tuple[dict, dict]]) -> float:
    """Median over the rows of how the baselines that both runs have changed."""
    changes = [
        after["baselines"][name]["us"] / before["baselines"][name]["us"] - 1
        for before, after in pairs
        for name in before["baselines"].keys() & after["baselines"].keys()
    ]
    return statistics.median(changes) if changes else 0.0


def compare(first: Path, second: Path, least: float) -> tuple[list[str], int]:
    """Lines to print, and how many rows became slower."""
    (meta_a, a), (meta_b, b) = load(first), load(second)
    builds = [f"{meta['revision']} (build {meta.get('build', '?')})" for meta in (meta_a, meta_b)]
    lines = [" -> ".join(builds)]
    for key in SAME_MACHINE:
        if meta_a.get(key) != meta_b.get(key):
            lines.append(f"! {key} differs: {meta_a.get(key)} and {meta_b.get(key)}")
    both = [(a[key], b[key]) for key in a if key in b]
    drift = baseline_change(both)
    lines += [f"baselines changed by {drift:+.1%} in the median", ""]
    lines.append(f"{'op':22}  {'case':42}  {'us':>10}  {'to us':>10}  {'change':>7}  verdict")
    count = dict.fromkeys(("faster", "slower", "same", "unclear"), 0)
    for before, after in both:
        said = verdict(before, after, least)
        count[said] += 1
        change = after["us"] / before["us"] - 1
        lines.append(
            f"{after['op']:22}  {after['case']:42}  {before['us']:10.1f}  {after['us']:10.1f}  "
            f"{change:+7.1%}  {said if said != 'same' else ''}".rstrip()
        )
    for text, keys in (("only before", a.keys() - b.keys()), ("only after", b.keys() - a.keys())):
        lines += [f"{op:22}  {case:42}  {text}" for _, op, case in sorted(keys)]
    lines += ["", ", ".join(f"{n} {said}" for said, n in count.items())]
    return lines, count["slower"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=0.03, help="smallest change that counts")
    parser.add_argument("--fail", action="store_true", help="exit with 1 where a row is slower")
    args = parser.parse_args()
    lines, slower = compare(args.before, args.after, args.least)
    print("\n".join(lines))
    return int(args.fail and slower > 0)


if __name__ == "__main__":
    sys.exit(main())
