"""Configs beside a tokenizer's files: read as transformers reads them, or refused."""

import json

import pytest

from pd_jax.data.tokenizers import WordPiece, load_tokenizer
from pd_jax.errors import TokenizerError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, "the", *"aetxTÉé日本", *(f"##{letter}" for letter in "aeéÉ日")]


@pytest.fixture
def small():
    return WordPiece(PIECES, lowercase=True)


def write_config(folder, **values):
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"tokenizer_class": "BertTokenizer"}, None),
        ({"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}, None),
        ({"tokenizer_class": "DistilBertTokenizer", "strip_accents": False}, None),
        ({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, None),
        ({"tokenizer_class": "TokenizersBackend", "do_lower_case": True}, "bert"),
        ({"do_lower_case": False}, None),
        ({"do_lower_case": False}, "bert"),
        ({}, "bert"),
    ],
)
def test_configs_overrule_a_tokenizer_json_as_in_transformers(tmp_path, lowercase, options, model):
    transformers = pytest.importorskip("transformers")
    WordPiece(PIECES, lowercase=lowercase, split_chinese=lowercase).save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    write_config(tmp_path, **options)
    if model is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    text = "The T É é aé x日本"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert ours.encode([text])[0].tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == ours.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word_tokenizer_type": "mecab"}, r"_config\.json has word_tokenizer_type 'mecab'"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "vocabulary of a BertJapaneseTokenizer"),
        ({"tokenizer_class": "PhobertTokenizer"}, "vocabulary of a PhobertTokenizer"),
        ({"tokenizer_class": 3}, "tokenizer_class is '3' and no name"),
    ],
)
def test_words_cut_in_ways_unknown_here_are_refused(small, tmp_path, options, message):
    small.save(tmp_path)
    write_config(tmp_path, **options)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


@pytest.mark.parametrize("name", ["BertTokenizerFast", "ElectraTokenizer", "TokenizersBackend"])
def test_berts_tokenizer_by_other_names_is_read(small, tmp_path, name):
    small.save(tmp_path)
    write_config(tmp_path, tokenizer_class=name, word_tokenizer_type="basic", do_lower_case=True)
    for file in ("vocab.txt", "tokenizer.json"):
        assert load_tokenizer(tmp_path / file).fingerprint == small.fingerprint
