"""The pages on diffusion methods: one shape, and names that exist."""

import ast
import re
from pathlib import Path

import pytest

import tokenburst
from tokenburst.decoders import caches, unmasking

PAGES = Path(tokenburst.__file__).parent / "docs" / "diffusion"
GENERAL = {"caches", "checkpoints", "chooser", "parity", "sparsed"}  # not on a rule
RULES = sorted(page.stem for page in PAGES.glob("*.md") if page.stem not in GENERAL)
KNOWN = {**vars(unmasking), **vars(caches), **vars(tokenburst)}


@pytest.mark.parametrize("name", RULES)
def test_a_page_on_a_rule_says_when_at_what_cost_how_exactly_and_whence(name):
    text = (PAGES / f"{name}.md").read_text()
    parts = re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE)
    assert parts == ["When", "Cost", "Parity", "Source"]
    assert text.startswith("# ") and text.count("\n# ") == 0
    assert re.search(r"^```\n", text, re.MULTILINE), "no formula"


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_names_on_a_page_exist(page):
    text = page.read_text()
    calls = []
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        calls += [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    for inline in re.findall(r"`([A-Z]\w+)\(", text):
        assert inline in KNOWN, inline
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id[0].isupper():
            assert call.func.id in KNOWN, call.func.id
            fields = getattr(KNOWN[call.func.id], "__dataclass_fields__", None)
            given = {keyword.arg for keyword in call.keywords}
            assert fields is None or given <= set(fields), call.func.id


def test_every_rule_and_cache_has_a_page():
    text = "".join(page.read_text() for page in PAGES.glob("*.md"))
    made = [name for name in unmasking.__all__ if hasattr(vars(unmasking)[name], "begin")]
    made += [name for name in caches.__all__ if hasattr(vars(caches)[name], "feed")]
    made = [n for n in made if n not in ("CachePolicy", "Recorded", "Rule", "Union", "Unmasking")]
    assert len(made) > 20
    assert [name for name in made if not re.search(rf"\b{name}\b", text)] == []
