"""Accents, vowel signs and syllables: kept where a vocabulary has them, or where asked for."""

import json
import unicodedata

import pytest

from pd_jax.config import Source, TokenizerStage
from pd_jax.data.tokenizers.tokenizer import load_tokenizer, train_tokenizer, unknown_share
from pd_jax.tools import train_tokenizer as tool

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HINDI = ["हिन्दी", "में", "लिखा", "हुआ", "पाठ", "है", "यह", "##ों"]
THAI = ["ที่", "นี่", "เป็น", "ภาษา", "ไทย"]
KOREAN = ["한국", "##어", "나라", "##의", "말"]
GERMAN = ["schön", "über", "für", "die", "und", "wörter", "##lich", "##ß"]


def vocabulary(folder, pieces, **config):
    """Writes a vocabulary, and a config beside it if there is anything in it."""
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *pieces]) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "vocab.txt"


def words_of(tokenizer, text):
    return [tokenizer.pieces[number] for number in tokenizer.encode([text])[0]]


@pytest.mark.parametrize("pieces", [HINDI, THAI, KOREAN, GERMAN], ids=["hi", "th", "ko", "de"])
def test_a_vocabulary_alone_is_read_so_that_its_pieces_are_found(tmp_path, pieces):
    made = load_tokenizer(vocabulary(tmp_path, pieces))
    words = [piece for piece in pieces if not piece.startswith("##")]
    assert words_of(made, " ".join(words)) == words
    made.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint == made.fingerprint
    assert words_of(again, " ".join(words)) == words
    if pieces is GERMAN:
        assert words_of(made, "SCHÖN Über") == ["schön", "über"]


@pytest.mark.parametrize("pieces", [HINDI, GERMAN], ids=["hi", "de"])
def test_what_a_config_states_of_accents_is_not_decided_by_the_pieces(tmp_path, pieces):
    stripped = load_tokenizer(vocabulary(tmp_path, pieces, do_lower_case=True))
    assert unknown_share(stripped, pieces[:1]) == 1
    path = vocabulary(tmp_path, pieces, do_lower_case=True, strip_accents=False)
    assert words_of(load_tokenizer(path), pieces[0]) == pieces[:1]
    path = vocabulary(tmp_path, pieces, strip_accents=True)
    assert load_tokenizer(path).fingerprint != stripped.fingerprint
    assert unknown_share(load_tokenizer(path), pieces[:1]) == 1


def test_few_accents_in_a_large_vocabulary_change_nothing(tmp_path):
    plain = [f"w{number}" for number in range(290)]
    made = load_tokenizer(vocabulary(tmp_path, [*plain, "cafe", "é", "日", "##日"]))
    assert words_of(made, "Café 日") == ["cafe", "日"]


def test_a_vocabulary_in_decomposed_letters_is_stripped_of_no_more_than_before(tmp_path):
    letters = [unicodedata.normalize("NFD", word) for word in KOREAN]
    made = load_tokenizer(vocabulary(tmp_path, letters))
    assert words_of(made, "한국 나라") == [letters[0], letters[2]]


def test_pieces_that_no_text_yields_however_it_is_read_change_nothing(tmp_path):
    joined = ["می\u200cشود", "می\u200cکند", "خانه\u200cها", "این", "است"]
    made = load_tokenizer(vocabulary(tmp_path, joined))
    assert words_of(made, "این است") == ["این", "است"]
    made.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["strip_accents"] is None  # as BERT's


def test_a_class_that_a_config_names_reads_as_transformers_reads_it(tmp_path):
    path = vocabulary(tmp_path, ["ärger", "öl", "über"], tokenizer_class="BertTokenizer")
    config = json.loads((path.parent / "tokenizer_config.json").read_text())
    assert "do_lower_case" not in config and "strip_accents" not in config
    load_tokenizer(path).save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["strip_accents"] is None


RUSSIAN = ["ёлка и йод", "мой ёж её", "йога твой"] * 30
JAPANESE = ["がぎぐ ばびぶ", "かきく はひふ"] * 30
VIETNAMESE = ["má mà mả mã mạ", "Việt Nam đẹp"] * 30


def stage(**options):
    return TokenizerStage(source=Source(path="x"), **{"vocab_size": 200, **options})


@pytest.mark.parametrize("text", [RUSSIAN, JAPANESE, VIETNAMESE], ids=["ru", "ja", "vi"])
def test_accents_are_kept_in_lowercase_where_asked_for(tmp_path, text):
    kept = train_tokenizer(iter(text), stage(strip_accents=False))
    letters = set("".join(text).lower()) - {" "}
    assert letters <= set("".join(kept.pieces))
    assert kept.encode([text[0].upper()])[0].tolist() == kept.encode([text[0]])[0].tolist()
    stripped = train_tokenizer(iter(text), stage())
    assert not letters <= set("".join(stripped.pieces))
    for made, strip_accents in ((kept, False), (stripped, None)):
        folder = tmp_path / str(strip_accents)
        made.save(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert (config["do_lower_case"], config["strip_accents"]) == (True, strip_accents)
        normalizer = json.loads((folder / "tokenizer.json").read_text())["normalizer"]
        assert (normalizer["lowercase"], normalizer["strip_accents"]) == (True, strip_accents)
        for name in ("vocab.txt", "tokenizer.json"):
            assert load_tokenizer(folder / name).fingerprint == made.fingerprint


def test_accents_are_stripped_of_cased_text_where_asked_for():
    made = train_tokenizer(iter(VIETNAMESE), stage(lowercase=False, strip_accents=True))
    assert words_of(made, "Việt") == words_of(made, "Viet") != words_of(made, "viet")


def test_transformers_keeps_the_same_accents(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = train_tokenizer(iter(RUSSIAN), stage(strip_accents=False))
    made.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in RUSSIAN[:3]:
        ids = theirs(text.title(), add_special_tokens=False)["input_ids"]
        assert ids == made.encode([text])[0].tolist()


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_algorithms_that_strip_nothing_take_no_such_setting(algorithm):
    message = f"strip_accents=False changes nothing of algorithm='{algorithm}'"
    with pytest.raises(ValueError, match=message):
        stage(algorithm=algorithm, strip_accents=False)


def test_the_command_keeps_accents_where_asked_for(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(RUSSIAN), encoding="utf-8")
    arguments = ["--input", str(tmp_path / "a.txt"), "--vocab-size", "100"]
    arguments += ["--output", str(tmp_path / "made")]
    assert tool.main([*arguments, "--no-strip-accents"]) == 0
    made = load_tokenizer(tmp_path / "made")
    assert words_of(made, "ЁЛКА") == words_of(made, "ёлка") != words_of(made, "елка")
    capsys.readouterr()
    (tmp_path / "a.txt").write_text("known words\n" + "unbroken" * 20 + "\n")  # 160 letters
    assert tool.main(arguments) == 0
    assert "or with --no-strip-accents where vowels are marks" in capsys.readouterr().err
    assert tool.main([*arguments, "--no-strip-accents"]) == 0
    assert "train with --algorithm unigram\n" in capsys.readouterr().err
