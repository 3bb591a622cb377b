"""The file that every bench writes: its circumstances and its rows; and the options all share."""

import argparse
import json
from pathlib import Path

import torch


def write(file: Path | None, facts: dict, rows: list[dict], **more: object) -> None:
    """Called after each row, so that a run that is cut leaves what it has; None writes nothing."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"meta": facts, **more, "rows": rows}, indent=1)
    file.write_text(text + "\n")


def options(doc: str | None) -> argparse.ArgumentParser:
    """--quick, --json, --device, --threads, --seconds."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, the first rows only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads, default as torch chooses")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after this time")
    return parser
