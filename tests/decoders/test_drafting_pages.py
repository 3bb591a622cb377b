"""The pages on autoregressive methods: what each says, and names that exist."""

import ast
import re
from pathlib import Path

import pytest

import tokenburst
from tokenburst.decoders.drafting import Drafter
from tokenburst.decoders.shapes import DraftShape
from tokenburst.decoders.verifying import LOSSLESS, LOSSY

PAGES = Path(tokenburst.__file__).parent / "docs" / "autoregressive"
GENERAL = {"chooser", "verification"}


def text_of(page):
    return (PAGES / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted({p.stem for p in PAGES.glob("*.md")} - GENERAL))
def test_a_page_says_when_at_what_cost_how_exactly_and_whence(page):
    text = text_of(page)
    for part in ("- **When it wins**", "- **Cost**", "- **Exact**", "Source"):
        assert part in text, part


@pytest.mark.parametrize("page", sorted(p.stem for p in PAGES.glob("*.md")))
def test_names_on_a_page_exist(page):
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tb" or hasattr(tokenburst, node.attr), node.attr
    for inline in re.findall(r"`([A-Z]\w+)[(`.]", text_of(page)):
        assert hasattr(tokenburst, inline) or inline.startswith("PromptLookup")


def test_every_drafter_shape_and_mode_has_a_place():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    kinds = [n for n, v in vars(tokenburst).items() if isinstance(v, type)]
    made = [n for n in kinds if issubclass(vars(tokenburst)[n], (Drafter, DraftShape))]
    assert len(made) > 12
    names = [*(n for n in made if n != "DraftShape"), *LOSSLESS, *LOSSY]
    assert [name for name in names if f"`{name}" not in text] == []
