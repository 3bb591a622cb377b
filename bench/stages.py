"""What `all.py` runs, in order of importance, and how long each may take."""

from pathlib import Path
from typing import NamedTuple

BOTH, CPU = ("cpu", "cuda"), ("cpu",)


class Stage(NamedTuple):
    """One bench file. Kind 'rows' writes JSON, 'table' prints Markdown, 'own' writes its files."""

    name: str
    file: str
    seconds: int  # a full run may take
    quick: int  # a quick run may take, 0: not in a quick run
    devices: tuple[str, ...] = BOTH
    kind: str = "rows"
    row_seconds: float = 0.0
    args: tuple[str, ...] = ()
    quick_args: tuple[str, ...] = ()
    title: str = ""
    written: str = ""  # by kind 'own', default NAME.md

    def limit(self, quick: bool) -> int:
        return self.quick if quick else self.seconds

    def options(self, quick: bool) -> tuple[str, ...]:
        return self.quick_args if quick else self.args

    def result(self, out: Path) -> Path:
        usual = f"{self.name}.json" if self.kind == "rows" else f"{self.name}.md"
        return out / (self.written or usual)


def rows(name: str, seconds: int, quick: int, row_seconds: float = 1.5) -> Stage:
    """A bench file of ops."""
    return Stage(name, f"bench_{name}.py", seconds, quick, row_seconds=row_seconds)


def rules(kind: str, quick: int) -> Stage:
    """Every unmasking rule on puzzles of one kind."""
    args = "--kinds", kind, "--out", "{out}", "--count"
    return Stage(
        f"rules_{kind.replace('-', '_')}", "bench_rules.py", 420, quick, CPU, "own",
        args=(*args, "500"), quick_args=(*args, "10", "--training", "10"),
        written=f"rules-{kind}.json",
    )  # fmt: skip


DRAFTERS = "--out", "{out}/drafters.md"
STAGES = (
    rows("vocab", 90, 30, 2.0),
    rows("step", 120, 40, 1.5),
    Stage("generate", "bench_generate.py", 150, 60),
    rows("attention", 100, 50, 1.0),
    Stage("tree_cost", "tree_cost.py", 90, 40),
    rows("sparse", 150, 60, 1.0),
    rows("sparsed", 90, 40, 1.0),
    rows("compile", 150, 60, 1.5),
    rows("models", 200, 40, 0.7),
    Stage("growth", "growth.py", 120, 40),
    rows("sampling", 60, 20),
    rows("unmask", 40, 15),
    rows("tree", 25, 10),
    rows("recycle", 25, 10),
    rows("commit", 20, 10),
    rows("ngram", 30, 15),
    Stage(
        "decoder", "bench_decoder.py", 60, 30, CPU, "own",
        args=("--out", "{out}/decoder.md"),
        quick_args=("--out", "{out}/decoder.md", "--new-tokens", "40"),
    ),
    Stage(
        "drafters", "bench_drafters.py", 150, 60, CPU, "own",
        args=DRAFTERS, quick_args=(*DRAFTERS, "--prompts", "2", "--rounds", "1"),
    ),
    Stage(
        "caches", "caches.py", 60, 40, CPU, "table", title="Caches of diffusion",
    ),
    Stage(
        "quality_caches", "quality_caches.py", 300, 0, CPU, "own", args=("--out", "{out}"),
    ),
    Stage(
        "sparsed_quality", "quality_sparsed.py", 90, 60, CPU, "table",
        quick_args=("--texts", "2"), title="What SparseD costs in answers",
    ),
    Stage(
        "sparse_scaling", "sparse_scaling.py", 90, 60, CPU, "table",
        args=("--threads", "2", "1", "--turns", "3"), quick_args=("--turns", "1"),
        title="attn_sparse over density and threads",
    ),
    rules("sudoku6-18", 60),
    rules("sudoku6-14", 0),
    rules("sudoku4-3-free", 0),
    rules("sudoku4-0", 0),
    Stage(
        "rules", "bench_rules.py", 30, 30, CPU, "own",
        args=("--out", "{out}", "--table"), quick_args=("--out", "{out}", "--table"),
    ),
)  # fmt: skip
