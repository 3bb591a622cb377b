"""Tokenizers of published checkpoints, without running their code."""

import json

import pytest
from published import DREAM, LLADA
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from tokenburst import load_tokenizer

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
CHAT = [{"role": "user", "content": "a b"}]


def test_tokenizer_json_with_a_chat_template(tmp_path):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "<user>": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<user>", "<|mdm_mask|>"])
    words.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE,
              "unk_token": "<unk>"}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps(LLADA))
    for tokenizer in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer.apply_chat_template(CHAT, return_dict=False)
        assert ids == [3, 1, 2]
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["a", "b"]


def test_vocabulary_and_merges_whose_class_is_foreign_code(tmp_path):
    letters = {"a": 0, "b": 1, "ab": 2, "<": 3, ">": 4, "Ġ": 5, "<|mask|>": 6}
    (tmp_path / "vocab.json").write_text(json.dumps({n: i for n, i in letters.items() if i < 6}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    special = {"content": "<|mask|>", "special": True, "normalized": False, "lstrip": False,
               "rstrip": False, "single_word": False}  # fmt: skip
    config = {"tokenizer_class": "DreamTokenizer", "chat_template": TEMPLATE,
              "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
              "added_tokens_decoder": {"6": special}}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps(DREAM))
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('foreign code ran')")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("ab<|mask|>b").input_ids == [2, 6, 1]
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "<user>a b"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"load_tokenizer: .*expected tokenizer\.json"):
        load_tokenizer(tmp_path)
