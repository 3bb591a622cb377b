"""Command line: tokenburst demo | generate | info."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

app = typer.Typer(
    help="Many tokens per forward pass.", no_args_is_help=True, pretty_exceptions_enable=False
)


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, highlight=False)
    return typer.Exit(2)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Versions, instruction set, CUDA state and the implementation behind each op."""
    from tokenburst import build_info

    facts = build_info()
    if as_json:
        print(json.dumps(facts))
        return
    console = Console()
    for name in [key for key in facts if key != "ops"]:
        console.print(f"{name:14}{facts[name]}", markup=False, highlight=False)
    table = Table("op", "on the CPU", "on a GPU", box=None)
    for op, row in facts["ops"].items():
        table.add_row(op, row["cpu"], row["cuda"])
    console.print(table)


def _quiet() -> None:
    """Our own progress is shown; transformers' loading bars are not."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _yes(same: bool) -> str:
    return "yes" if same else "NO"


@app.command()
def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts to continue.")] = 12,
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens per prompt.")] = 128,
    puzzles: Annotated[int, typer.Option(min=1, help="Held-out puzzles to solve.")] = 48,
) -> None:
    """Decode with the built-in models: with and without recycling, by several policies."""
    from tokenburst import demo as runs

    _quiet()
    console = Console(stderr=as_json)
    boards = ("sudoku4", "sudoku6")
    steps = prompts + len(boards) * len(list(runs.policies(1)))
    columns = (TextColumn("{task.description:32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=steps)

        def tick(what: str) -> None:
            progress.update(task, advance=1, description=what)

        tree, text = runs.run_tree(prompts, new_tokens, tick)
        solved = [runs.run_diffusion(name, puzzles, tick) for name in boards]
    rows = [row for results, _ in solved for row in results]
    if as_json:
        print(runs.as_json(tree, rows))
        return

    before, after = text.split("⟫")
    shown = Text(before).append(after, style="green")
    console.print(Panel(shown, title="a held-out prompt and, in green, its continuation"))
    table = Table("greedy decoding", "forwards", "tokens/forward", "same text", "seconds")
    base = tree.new_tokens / max(1, tree.baseline_forwards)
    table.add_row(
        "transformers generate",
        str(tree.new_tokens),
        "1.00",
        _yes(tree.transformers_identical),
        f"{tree.transformers_seconds:.2f}",
    )
    table.add_row(
        "plain", str(tree.baseline_forwards), f"{base:.2f}", "", f"{tree.plain_seconds:.2f}"
    )
    table.add_row(
        "Token Recycling",
        str(tree.forwards),
        f"{tree.tokens_per_forward:.2f}",
        _yes(tree.identical),
        f"{tree.seconds:.2f}",
    )
    console.print(table)
    console.print(Panel(solved[-1][1], title="a held-out puzzle and its solution", expand=False))
    table = Table("model", "unmasking", "forwards", "solved", "seconds")
    for row in rows:
        table.add_row(
            row.model,
            row.policy,
            f"{row.forwards:.2f}",
            f"{row.accuracy:.1%}",
            f"{row.seconds:.2f}",
        )
    console.print(table)


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="A checkpoint directory or a built-in model's name.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; for a sudoku model the board.")],
    method: Annotated[
        str | None,
        typer.Option(help="recycling (default) or plain; for diffusion threshold or one-per-step."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    threshold: Annotated[float, typer.Option(help="For the method of this name.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Generate from a local checkpoint or a built-in model."""
    from tokenburst.generation import generate_text

    _quiet()
    try:
        text, stats = generate_text(model, prompt, method, max_new_tokens, threshold)
    except (ValueError, OSError, RuntimeError) as error:
        raise _fail(str(error)) from None
    if as_json:
        print(json.dumps({"text": text, **stats}))
        return
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    summary = ", ".join(
        f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in stats.items()
    )
    Console(stderr=True).print(f"[{summary}]", markup=False, highlight=False)
