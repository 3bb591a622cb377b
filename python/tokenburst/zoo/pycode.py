"""Standard-library source as a text corpus: the files, their split, and prompts cut from it."""

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Test suites and generated tables (code pages, help topics) would teach the model to list numbers.
EXCLUDED_FOLDERS = frozenset(
    {
        "__pycache__",
        "_bundled",
        "encodings",
        "idlelib",
        "idle_test",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
HELD_OUT_IN = 16  # one file in this many is never trained on


def is_held_out(name: str) -> bool:
    """Whether the file `name` (POSIX path relative to the library) is in the held-out split."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_IN == 0


def source_files(root: Path | None = None) -> list[Path]:
    """The standard library's Python files under `root` (default: this interpreter's)."""
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    return sorted(
        path
        for path in root.rglob("*.py")
        if not EXCLUDED_FOLDERS.intersection(path.relative_to(root).parts[:-1])
    )


def texts(split: str = "train", root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yields (relative path, source text) for each file of `split`, "train" or "test"."""
    if split not in ("train", "test"):
        raise ValueError(f"texts: split must be 'train' or 'test', got {split!r}")
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        if is_held_out(name) == (split == "test"):
            text = path.read_text(encoding="utf-8", errors="ignore")
            if text.strip():
                yield name, text


def held_out_prompts(
    count: int, tokens: int, tokenizer: Any, root: Path | None = None
) -> list[dict[str, str]]:
    """Cuts `count` prompts of at most `tokens` tokens out of held-out files.

    A prompt ends inside a function body, at the end of a line and before its newline: there the
    tokenizer splits the prompt as it splits the whole file. It starts at the start of a line.
    Each file gives its first prompt before any gives its second. Returns dicts with the keys
    "file" and "text"; fewer than `count` when the files run out.
    """
    files = sorted(texts("test", root), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    cuts = [(name, _prompts(text, tokens, tokenizer)) for name, text in files]
    prompts: list[dict[str, str]] = []
    while cuts and len(prompts) < count:
        left = []
        for name, found in cuts:
            text = next(found, None)
            if text is not None:
                prompts.append({"file": name, "text": text})
                left.append((name, found))
        cuts = left
    return prompts[:count]


def _prompts(text: str, tokens: int, tokenizer: Any) -> Iterator[str]:
    """The text before each cut, three lines into a function, no two cuts within one prompt."""
    start = 0
    for found in re.finditer(r"^ *def \w+\(.*\):\n", text, re.MULTILINE):
        body = text[found.end() :].split("\n", 12)
        if body[0].lstrip().startswith(('"""', "'''", 'r"""')):
            continue  # a cut inside a docstring asks for prose, not for code
        indent = len(body[0]) - len(body[0].lstrip())
        if indent == 0 or not all(line.startswith(" " * indent) for line in body[:5]):
            continue
        end = found.end() + len("\n".join(body[:3]))
        ids = tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
        if len(ids) < tokens * 3 // 4:
            continue
        prompt = tokenizer.decode(ids[-tokens:])
        if len(ids) > tokens:
            prompt = prompt.partition("\n")[2]
        start = end
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) >= tokens // 2:
            yield prompt
