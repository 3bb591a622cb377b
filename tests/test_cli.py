"""The command line, run in this process."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from tiny import tiny_model
from tokenburst import _native, zoo
from tokenburst.cli import app


def run(*args):
    return CliRunner().invoke(app, args)


def test_info():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["version"] == _native.__version__ and facts["cpu_isa"] in ("avx2", "portable")
    assert facts["ops"].keys() == set(_native.op_names())
    text = run("info").stdout
    assert "tree_verify_greedy" in text and facts["torch"] in text


def test_demo_json():
    result = run("demo", "--json", "--prompts", "2", "--new-tokens", "24", "--puzzles", "2")
    got = json.loads(result.stdout)
    tree = got["tree"]
    assert tree["identical"] is True and tree["prompts"] == 2 and tree["new_tokens"] == 48
    assert tree["baseline_forwards"] == 48 > tree["forwards"]
    assert tree["tokens_per_forward"] == pytest.approx(48 / tree["forwards"])
    assert tree["baseline_seconds"] > 0 and tree["seconds"] > 0
    assert {"policy", "forwards", "accuracy", "seconds"} <= got["diffusion"][0].keys()


def test_demo_table():
    text = run("demo", "--prompts", "1", "--new-tokens", "8", "--puzzles", "1").stdout
    for part in ("Token Recycling", "transformers generate", "threshold 0.9", "solved"):
        assert part in text


@pytest.mark.parametrize("method", ["recycling", "plain"])
def test_generate_from_a_built_in_model(method):
    options = ("--method", method, "--max-new-tokens", "12", "--json")
    got = json.loads(
        run("generate", "--model", "pycode", "--prompt", "import os\n", *options).stdout
    )
    assert got["text"].startswith("import os\n") and got["new_tokens"] == 12


def test_generate_solves_a_board():
    result = run("generate", "--model", "sudoku4", "--prompt", "1.3. ..1. .1.. ..2.", "--json")
    cells = json.loads(result.stdout)["text"].split()
    assert len(cells) == 16 and set(cells) <= set("1234") and cells[0] == "1"


def test_generate_from_a_local_checkpoint(tmp_path):
    tiny_model("qwen2", torch.float32).save_pretrained(tmp_path)
    small = {"vocab_size": 64}
    zoo.tokenizer("pycode").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vocab_size"] == small["vocab_size"]
    result = run("generate", "--model", str(tmp_path), "--prompt", "import os")
    assert result.exit_code == 2 and "expected ids in 0..63" in result.stderr  # other vocabulary


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--model", "nowhere", "--prompt", "x"),
            "expected a checkpoint directory or one of pycode",
        ),
        (("--model", "pycode", "--prompt", ""), "prompt: expected at least one token"),
        (
            ("--model", "pycode", "--prompt", "x", "--method", "threshold"),
            "one of recycling, plain",
        ),
        (("--model", "sudoku4", "--prompt", "12"), "prompt: expected 16 cells"),
        (("--model", "sudoku4", "--prompt", "9" * 16), "prompt: expected 16 cells, digits 1..4"),
    ],
)
def test_generate_refuses(args, message):
    result = run("generate", *args)
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


def test_generate_refuses_other_architectures(tmp_path):
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    result = run("generate", "--model", str(tmp_path), "--prompt", "x")
    assert result.exit_code == 2
    assert "llama, mistral, qwen2, qwen3, got a gpt2" in result.stderr.replace("\n", " ")
