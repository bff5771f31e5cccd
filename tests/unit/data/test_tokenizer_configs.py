"""Configs beside a tokenizer's files: read as transformers reads them, or refused."""

import json

import pytest
import tokenizers as library

from pd_jax.config import TokenizerStage
from pd_jax.data.tokenizers.tokenizer import WordPiece, load_tokenizer, train_tokenizer
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
        ({"tokenizer_class": 3}, "tokenizer_class is '3' and not a name"),
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


@pytest.mark.parametrize(
    "config", [{"tokenizer_class": "AlbertTokenizer"}, {"do_lower_case": True}, {"albert": True}]
)
def test_a_model_whose_text_is_changed_before_gives_way_to_a_tokenizer_json(tmp_path, config):
    stage = TokenizerStage(source=(), algorithm="unigram", vocab_size=13, lowercase=False)
    plain = train_tokenizer(iter(["the tea ate a tax"] * 20), stage)
    plain.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == plain.fingerprint
    if "albert" in config:
        (tmp_path / "tokenizer_config.json").unlink()
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    else:
        write_config(tmp_path, **config)
    model = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    model.normalizer = library.normalizers.Lowercase()
    model.save(str(tmp_path / "tokenizer.json"))
    upper, lower = load_tokenizer(tmp_path).encode(["THE TEA", "the tea"])
    assert upper.tolist() == lower.tolist()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"spiece\.model is read alone here, but the config"):
        load_tokenizer(tmp_path)


# ---- added tokens -----------------------------------------------------------------------------


def save_with_added(small, folder, *tokens: str, special: bool = False) -> library.Tokenizer:
    """Saves a tokenizer.json to which tokens were added; returns what the library reads in it."""
    small.save(folder)
    model = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    (model.add_special_tokens if special else model.add_tokens)(list(tokens))
    model.save(str(folder / "tokenizer.json"))
    return model


def test_tokens_added_within_the_vocabulary_are_found_in_texts_and_saved(small, tmp_path):
    theirs = save_with_added(small, tmp_path, "the", "##a")
    ours = load_tokenizer(tmp_path)
    text = "tHe xthex ##a [MASK]"
    expected = [PIECES.index(piece) for piece in ("the", "x", "the", "x", "##a")]
    assert theirs.encode("tHe xthex ##a", add_special_tokens=False).ids == expected
    ids = ours.encode([text])[0].tolist()
    assert ids[:5] == expected and ours.mask_id not in ids
    assert small.encode([text])[0].tolist() != ids
    assert (ours.vocab_size, ours.pad_id) == (small.vocab_size, small.pad_id)
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint == ours.fingerprint != small.fingerprint
    saved = library.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert saved.encode("tHe xthex ##a", add_special_tokens=False).ids == expected


def test_special_tokens_added_within_the_vocabulary_change_nothing(small, tmp_path):
    save_with_added(small, tmp_path, "x", special=True)
    assert load_tokenizer(tmp_path).fingerprint == small.fingerprint


def test_transformers_finds_the_added_tokens_that_we_find(small, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_with_added(small, tmp_path, "the", "é")
    ours, text = load_tokenizer(tmp_path), "The xthe x日 xé"
    ours.save(tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        found = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode([text])[0].tolist() == found


def decoder(content: object, special: bool) -> dict:
    return {"added_tokens_decoder": {"5": {"content": content, "special": special}}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", {"[E2]": 99}, r"added_tokens\.json adds the token '\[E2\]' to vocab"),
        (
            "added_tokens.json",
            {"the": 5},
            r"adds the token 'the' to vocab\.txt, .* tokenizer\.json",
        ),
        ("tokenizer_config.json", decoder("the", False), "_config.json adds the token 'the'"),
        ("tokenizer_config.json", decoder("[E2]", True), r"_config.json adds the token '\[E2\]'"),
        ("tokenizer_config.json", decoder(5, True), "added_tokens_decoder that is not a table"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "that is not a table of tokens"),
        ("added_tokens.json", [], r"added_tokens\.json is not a JSON object"),
    ],
)
def test_tokens_added_beside_a_vocabulary_are_refused(small, tmp_path, name, content, message):
    small.save(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


def test_special_tokens_named_beside_a_vocabulary_change_nothing(small, tmp_path):
    small.save(tmp_path)
    write_config(tmp_path, do_lower_case=True, **decoder("[CLS]", True))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[MASK]": 4}))
    assert load_tokenizer(tmp_path / "vocab.txt").fingerprint == small.fingerprint
