"""Tables and a plot of what `bench_rules.py` measured."""

import json
from pathlib import Path

CAPTION = (
    "Forwards are means per puzzle, of HEX the sum over its decodings. Seconds are of all puzzles, "
    "{batch} at a time. Three rules ask a small network that is trained for this table, seeded, "
    "and not part of the package: Guided a causal model that reads the puzzle as a prompt (it "
    "solves alone what the row of its text says), joint sampling one layer over the model's "
    "hidden states, Learn2PD its filter on traces. No puzzle has an end of text: `EndOfText` has "
    "nothing to cut here."
)
CHOSEN = (  # rows of the chooser
    "one per step",
    "LLaDA, 4 per step",
    "Dream, entropy",
    "Dimple",
    "Fast-dLLM, threshold 0.998",
    "Fast-dLLM, factor 0.1",
    "Fast-dLLM, threshold 0.98",
    "Fast-dLLM, threshold 0.95",
    "Fast-dLLM, threshold 0.9",
    "Fast-dLLM, factor 0.5",
    "dParallel, entropy 0.3",
    "EB-sampler 0.1",
    "CreditDecoding",
    "LocalLeap",
    "WINO",
    "RCR, 8 steps",
    "KLASS",
    "SlowFast",
    "Prophet, whole block",
    "LLaDA2.1, editing",
    "Learn2PD filter",
    "joint sampling, 4 per step",
    "Guided, text of the diffusion",
    "Guided, text of the supervisor",
    "HEX",
)


def results(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rules-*.json"))]


def said(result: dict) -> list[str]:
    """What kind of puzzles these are, nothing where that is the usual one."""
    return [f"{result['givens']} givens"] * bool(result["givens"]) + ["any completion"] * bool(
        result.get("free")
    )


def chooser(folder: Path) -> str:
    """The chooser's table in Markdown, from all results of a folder."""
    found = results(folder)
    kinds = [", ".join([result["model"], *said(result)]) for result in found]
    lines = ["| rule | " + " | ".join(kinds) + " |", "|---" * (len(found) + 1) + "|"]
    for name in CHOSEN:
        cells = []
        for result in found:
            rows = [row for row in result["rows"] if row["rule"].split(", ")[0] == name]
            rows += [row for row in result["rows"] if row["rule"] == name]
            texts = [f"{100 * row['accuracy']:.1f} in {row['forwards']:.2f}" for row in rows[:1]]
            cells += texts or ["not run"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(folder: Path) -> None:
    """rules.md and rules.png of all results in a folder."""
    import matplotlib.pyplot as plt

    from bench_rules import BATCH

    found = results(folder)
    lines = ["# Unmasking rules on held-out puzzles", "", CAPTION.format(batch=BATCH), ""]
    figure, axes = plt.subplots(1, len(found), figsize=(6.5 * len(found), 5), squeeze=False)
    for result, axis in zip(found, axes[0], strict=True):
        base, kind = result["rows"][0], ", ".join(said(result)) or "few givens"
        lines += [
            f"## {result['model']}, {result['count']} puzzles, {kind} "
            f"({result['machine']}, {result['threads']} threads, torch {result['torch']})",
            "",
            "| rule | solved % | forwards | fewer | seconds |",
            "|---|---|---|---|---|",
        ]
        for row in result["rows"]:
            lines.append(
                f"| {row['rule']} | {100 * row['accuracy']:.1f} | {row['forwards']:.2f} | "
                f"{base['forwards'] / row['forwards']:.1f}x | {row['seconds']:.2f} |"
            )
            axis.plot(row["forwards"], 100 * row["accuracy"], "o", ms=4)
            axis.annotate(row["rule"], (row["forwards"], 100 * row["accuracy"]), fontsize=5)
        lines += ["", f"`{result['command']}`", ""]
        axis.set(xscale="log", xlabel="forwards per puzzle", ylabel="solved %")
        axis.set_title(f"{result['model']}, {kind}")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "rules.png", dpi=110)
    (folder / "rules.md").write_text("\n".join(lines))
