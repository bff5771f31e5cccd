"""Tokenizers: equal to BERT's own on awkward text, equal after saving, equal in transformers."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config import Source, TokenizerStage
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer, train_tokenizer
from pd_jax.errors import TokenizerError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PIECES = [
    *SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS),
    *"0123456789.,!?'-:/@#&()[]_~日本語é", "##0", "##1", "the", "un", "##aff", "##able", "want",
    "##want", "##ed", "runn", "##ing", "http", "mask", "resume", "##sume",
]  # fmt: skip

AWKWARD = [
    "",
    " ",
    "UNwantéd,running",
    "naïve café résumé Ångström ǅ İstanbul ŞẞÆ",
    "e\u0301 E\u0301 a\u0308 \u0301 \u0301x n\u0303\u0303",  # combining marks, alone and stacked
    "日本語のテキスト 漢字and latin mixed中文",
    "emoji 😀👍🏽👨\u200d👩\u200d👧 ok",
    "tab\tnew\nline\r\nfeed\x0b\x0c \x85 \u2028 \u2029 \u00a0 \u3000 end",
    "con\x00trol \x01\x02 \x1c\x1d zero\u200bwidth soft\u00adhyphen \ufeffbom \ufffd",
    "http://www.example.com/path?query=1&x=[2]#frag_ment user@host.org",
    "x" * 100 + " " + "y" * 101 + " " + "z" * 10_000,
    "'quoted' “curly” ‘single’ — dash – en … ¿qué? «guillemets» 「日」 $5 €5 ^a`b~c|d",
    "[MASK] [CLS] mask [SEP]",
    "ﬁne ﬀ ½ ² Ⅷ ℡",
    "مرحبا שלום हिन्दी ไทย Ελληνικά Σίσυφος Кириллица",
    "don't can't the unaffable 3.14159 100,000",
    "a" + "\u0301" * 50,
]


def reference(text, ids, *, lowercase=True, longest=100):
    """BERT's tokenizer as its paper's code describes it, written apart from the library's."""
    clean = ""
    for letter in text:
        category = unicodedata.category(letter)
        if letter in " \t\n\r" or category == "Zs":
            clean += " "
        elif ord(letter) in (0, 0xFFFD) or category in ("Cc", "Cf", "Cn", "Co", "Cs"):
            continue
        elif 0x4E00 <= ord(letter) <= 0x9FFF or 0x3400 <= ord(letter) <= 0x4DBF:
            clean += f" {letter} "
        else:
            clean += letter
    found = []
    for word in clean.split():
        if lowercase:
            word = "".join(
                letter
                for letter in unicodedata.normalize("NFD", word.lower())
                if unicodedata.category(letter) != "Mn"
            )
        spaced = "".join(f" {letter} " if is_punctuation(letter) else letter for letter in word)
        for run in spaced.split():
            found += pieces_of(run, ids, longest)
    return found


def is_punctuation(letter):
    ascii_mark = (
        letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " "
    )
    return ascii_mark or unicodedata.category(letter).startswith("P")


def pieces_of(run, ids, longest):
    if len(run) > longest:
        return [ids["[UNK]"]]
    found, start = [], 0
    while start < len(run):
        prefix = "##" if start else ""
        end = next((e for e in range(len(run), start, -1) if prefix + run[start:e] in ids), None)
        if end is None:
            return [ids["[UNK]"]]
        found.append(ids[prefix + run[start:end]])
        start = end
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return load_tokenizer(path)


def encode(tokenizer, text, **options):
    return tokenizer.encode([text], **options)[0].tolist()


def test_the_example_of_berts_own_test(small):
    ids = encode(small, "UNwant\u00e9d,running")
    assert [PIECES[number] for number in ids] == ["un", "##want", "##ed", ",", "runn", "##ing"]


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_text_gets_the_reference_ids(small, text):
    ids = {piece: number for number, piece in enumerate(PIECES)}
    assert encode(small, text) == reference(text, ids)


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_text_gets_the_reference_ids_of_berts_vocabulary(data_folder, text):
    path = data_folder / "vocab/vocab.txt"
    ids = {piece: n for n, piece in enumerate(path.read_text(encoding="utf-8").split("\n"))}
    assert encode(load_tokenizer(path), text) == reference(text, ids)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.booleans())
def test_remembered_words_change_nothing(text, lowercase):
    tokenizer = tokenizer_lib.WordPiece(PIECES, lowercase=lowercase)
    expected = tokenizer._model.encode(text, add_special_tokens=False).ids
    assert encode(tokenizer, text) == expected
    assert encode(tokenizer, text) == expected  # from memory


@pytest.mark.parametrize("blank", [" ", "\n", ", ", "日"])
def test_a_text_of_any_length_is_encoded_as_a_whole(small, blank):
    text = blank.join(["unaffable", "running", "wanted"] * 8_000)
    once = encode(small, blank.join(["unaffable", "running", "wanted", ""]))
    assert encode(small, text + blank) == once * 8_000
    assert encode(small, text, limit=10) == (once * 10)[:10]


def test_a_limit_is_met_without_reading_on(small):
    text = "the " * 20_000_000
    assert encode(small, text, limit=3) == [PIECES.index("the")] * 3


def test_memory_for_words_is_bounded(small, monkeypatch):
    from pd_jax.data.tokenizers import wordpieces

    monkeypatch.setattr(wordpieces, "_KEPT_WORDS", 10)
    tokenizer = tokenizer_lib.WordPiece(PIECES, lowercase=True)
    words = [f"the{number}" for number in range(100)]
    assert encode(tokenizer, " ".join(words)) == sum((encode(small, word) for word in words), [])
    assert len(tokenizer._words) <= 10


def test_special_tokens_and_word_starts(small):
    assert (small.pad_id, small.unk_id, small.cls_id, small.sep_id, small.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert small.vocab_size == len(PIECES) == len(small.word_starts)
    assert small.word_starts.tolist() == [not piece.startswith("##") for piece in PIECES]


def test_case_is_taken_from_the_vocabulary_or_the_config_beside_it(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in [*PIECES, "The"]), encoding="utf-8")
    cased = load_tokenizer(path)
    assert encode(cased, "The the") == [len(PIECES), PIECES.index("the")]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    lowered = load_tokenizer(tmp_path)
    assert encode(lowered, "The") == [PIECES.index("the")]
    assert lowered.fingerprint != cased.fingerprint


def corpus(rows=400):
    """Sentences with enough different words to train on."""
    chance = np.random.default_rng(0)
    syllables = ["ka", "lo", "mi", "ter", "sun", "Bra", "é", "quo", "ing", "ed", "日本"]
    for _ in range(rows):
        words = ["".join(chance.choice(syllables, chance.integers(1, 4))) for _ in range(8)]
        yield " ".join(words) + "."


def stage(algorithm, **options):
    return TokenizerStage(
        source=Source(path="x"), algorithm=algorithm, **{"vocab_size": 120, **options}
    )


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def algorithm(request):
    return request.param


@pytest.fixture(scope="module")
def trained(algorithm):
    return train_tokenizer(corpus(), stage(algorithm))


def test_a_trained_tokenizer_knows_its_text_and_needs_few_pieces(trained):
    texts = list(corpus(50))
    ids = trained.encode(texts)
    assert trained.vocab_size <= 120
    assert not any((row == trained.unk_id).any() for row in ids)
    assert sum(map(len, ids)) < sum(map(len, texts)) / 2
    words = sum(len(text.split()) for text in texts)
    starts = sum(int(trained.word_starts[row].sum()) for row in ids)
    assert words <= starts <= 3 * words
    special = {trained.pad_id, trained.unk_id, trained.cls_id, trained.sep_id, trained.mask_id}
    assert len(special) == 5
    assert not special - {trained.unk_id} & set(encode(trained, "[MASK][CLS] [SEP] [PAD]"))


def test_a_saved_tokenizer_is_the_same(trained, tmp_path):
    trained.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == trained.fingerprint
    for text in [*corpus(20), *AWKWARD]:
        assert encode(again, text) == encode(trained, text)


@pytest.mark.parametrize("before", ["wordpiece", "unigram", "tokenizer.model"])
def test_a_tokenizer_saved_over_another_takes_its_place(trained, tmp_path, before):
    (tmp_path / "notes.txt").write_text("mine")
    if before == "tokenizer.model":
        (tmp_path / before).write_bytes(b"of another project")
    else:
        train_tokenizer(corpus(), stage(before, vocab_size=110)).save(tmp_path)
    trained.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == trained.fingerprint
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_model_of_a_name_of_its_own_is_not_removed(trained, tmp_path):
    (tmp_path / "months_of_work.model").write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"months_of_work\.model would be read in place"):
        trained.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["months_of_work.model"]


def test_training_is_repeatable_in_another_process(trained, algorithm):
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('test', sys.argv[1])\n"
        "test = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(test)\n"
        "made = test.train_tokenizer(test.corpus(), test.stage(sys.argv[2]))\n"
        "print(made.fingerprint)\n"
    )
    root = pathlib.Path(tokenizer_lib.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program, __file__, algorithm],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == trained.fingerprint


def test_transformers_reads_the_saved_folder_and_agrees(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    # The libraries differ by design on special tokens spelt out, and on towers of accents.
    for text in [*corpus(20), *AWKWARD[:12], *AWKWARD[13:-1]]:
        assert other(text, add_special_tokens=False)["input_ids"] == encode(trained, text), text
    pair = other("kalo", "ter")
    a, b = encode(trained, "kalo"), encode(trained, "ter")
    assert pair["input_ids"] == [trained.cls_id, *a, trained.sep_id, *b, trained.sep_id]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert (other.pad_token_id, other.mask_token_id) == (trained.pad_id, trained.mask_id)


def test_berts_vocabulary_saved_is_read_by_transformers_and_agrees_on_real_text(
    data_folder, tmp_path
):
    transformers = pytest.importorskip("transformers")
    ours = load_tokenizer(data_folder / "vocab/vocab.txt")
    ours.save(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == (data_folder / "vocab/vocab.txt").read_bytes()
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(other).__name__ == "BertTokenizer"
    with (data_folder / "corpus/wiki.txt").open(encoding="utf-8") as stream:
        texts = [line for line, _ in zip(stream, range(3_000), strict=False)]
    assert [row.tolist() for row in ours.encode(texts)] == other(texts, add_special_tokens=False)[
        "input_ids"
    ]


def test_ten_thousand_lines_split_equally_in_transformers(data_folder, tmp_path):
    """What an exported folder's tokenizer gives AutoTokenizer, on real text of four kinds."""
    transformers = pytest.importorskip("transformers")
    ours = load_tokenizer(data_folder / "vocab" / "vocab.txt")
    ours.save(tmp_path)
    texts = []
    for name in ("corpus/wiki", "corpus/novels", "transfer/imdb_unsup", "tasks/sst2/train"):
        (path,) = data_folder.glob(f"{name}.t*")
        with path.open(encoding="utf-8") as stream:
            lines = (line.strip() for line in stream)
            texts += itertools.islice((line for line in lines if line), 2500)
    assert len(texts) == 10_000
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for text, ids, expected in zip(texts, found, ours.encode(texts), strict=True):
        assert ids == expected.tolist(), text


def test_another_kind_of_tokenizer_json_is_used_as_it_is(tmp_path):
    import tokenizers as library

    model = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = library.pre_tokenizers.Whitespace()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    model.train_from_iterator(
        corpus(),
        library.trainers.BpeTrainer(vocab_size=100, special_tokens=names, show_progress=False),
    )
    model.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert (ours.cls_id, ours.pad_id, ours.sep_id, ours.unk_id, ours.mask_id) == (0, 1, 2, 3, 4)
    text = next(corpus())
    assert encode(ours, text) == model.encode(text, add_special_tokens=False).ids
    assert 4 not in encode(ours, "<mask>")
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == ours.fingerprint


def test_a_saved_tokenizer_json_is_known_again_however_it_was_written(tmp_path):
    import tokenizers as library

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    model = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = library.pre_tokenizers.Whitespace()
    trainer = library.trainers.BpeTrainer(vocab_size=60, special_tokens=names, show_progress=False)
    model.train_from_iterator(corpus(), trainer)
    whole = json.loads(model.to_str())
    merges = [" ".join(pair) for pair in whole["model"]["merges"]]
    older = {**whole, "model": {**whole["model"], "merges": merges}}
    del older["model"]["ignore_merges"], older["model"]["byte_fallback"]
    added = [{**token, "special": token["content"] != "<mask>"} for token in whole["added_tokens"]]
    for number, definition in enumerate((whole, older, {**whole, "added_tokens": added})):
        path = tmp_path / f"{number}" / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(json.dumps(definition))
        ours = load_tokenizer(path)
        ours.save(tmp_path / f"{number}" / "again")
        assert load_tokenizer(tmp_path / f"{number}" / "again").fingerprint == ours.fingerprint


def test_a_saved_tokenizer_json_frames_texts_as_we_do_whatever_its_own_frame_was(tmp_path):
    transformers = pytest.importorskip("transformers")
    import tokenizers as library

    pieces = [(piece, -1.0 * n) for n, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>"])]
    pieces += [(piece, -5.0) for piece in ("▁good", "▁film", "▁", "g", "o", "<mask>")]
    model = library.Tokenizer(library.models.Unigram(pieces, unk_id=3))
    model.pre_tokenizer = library.pre_tokenizers.Metaspace()
    model.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    model.post_processor = library.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    model.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    ours.save(tmp_path / "again")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    pair = theirs("good film", "good", return_token_type_ids=True)
    assert pair["input_ids"] == [0, 4, 5, 2, 4, 2]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    # What a text writes like a special token is unknown to it.
    special = {ours.pad_id, ours.cls_id, ours.sep_id, ours.mask_id}
    for text in ("<s>good</s>", "good <mask> film", "<pad>"):
        ids = encode(ours, text)
        assert ours.unk_id in ids and not special & set(ids)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "a\nb\n", r"vocab\.txt lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        (
            "vocab.txt",
            "[PAD]\n[UNK]\n[SEP]\n[CLS]\n",
            r"lacks \[MASK\]; a vocabulary for BERT needs",
        ),
        ("vocab.txt", "\n".join([*SPECIAL, "a", "b", "a"]), r"vocab\.txt:8 repeats line 6 \('a'\)"),
        ("vocab.txt", b"[PAD]\n\xff\n", r"vocab\.txt is not UTF-8"),
        ("tokenizer.json", "{}", r"tokenizer\.json is not a tokenizer of the tokenizers library"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}', r"tokenizer\.json cannot be read"),
        ("tokenizer.json", "{", r"tokenizer\.json is not valid JSON"),
        ("spiece.model", "no model", r"spiece\.model is not a SentencePiece model"),
        ("readme.md", "", r"has no vocab\.txt, tokenizer\.json or \.model file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_what_is_missing_or_ambiguous_is_said_so(tmp_path):
    with pytest.raises(TokenizerError, match=r"vocab\.txt does not exist"):
        load_tokenizer(tmp_path / "vocab.txt")
    with pytest.raises(TokenizerError, match=r"or \.model file; name another folder$"):
        load_tokenizer(tmp_path)
    for inside in ("model", "tokenizer"):
        (tmp_path / inside).mkdir()
        with pytest.raises(TokenizerError, match=f"or .model file; name {tmp_path / inside}$"):
            load_tokenizer(tmp_path)
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"several tokenizers \(a\.model, b\.model\)"):
        load_tokenizer(tmp_path)


def test_a_folder_of_any_name_is_read(trained, tmp_path):
    folder = tmp_path / "h[1]*?"
    trained.save(folder)
    assert load_tokenizer(folder).fingerprint == trained.fingerprint
    (folder / "other.model").write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"other\.model would be read in place"):
        trained.save(folder)


def test_rare_letters_take_no_places_from_words():
    common = [*corpus()] * 100
    rare = [chr(0x4E00 + number) for number in range(1_200)]
    made = train_tokenizer(iter([*common, *rare]), stage("wordpiece", vocab_size=8_000))
    assert sum(len(piece) == 1 for piece in made.pieces) == 1_000 - len(" ")


def test_an_alphabet_of_thousands_of_letters_is_kept():
    letters = [chr(0x4E00 + number) for number in range(2_000)]
    text = ["".join(letters[start : start + 50]) for start in range(0, 2_000, 50)]
    made = train_tokenizer(iter(text), stage("wordpiece", vocab_size=4_100))
    assert tokenizer_lib.unknown_share(made, text) < 0.002
    made = train_tokenizer(iter(text), stage("wordpiece", vocab_size=3_005))
    assert made.vocab_size <= 3_005
    assert 0.25 <= tokenizer_lib.unknown_share(made, text) < 0.26


@pytest.mark.parametrize("algorithm", ["wordpiece", "unigram", "bpe"])
def test_no_text_to_train_on_is_said_so(algorithm):
    with pytest.raises(TokenizerError, match="no text to train"):
        train_tokenizer(iter(["", ""]), stage(algorithm))


def test_too_large_a_vocabulary_is_refused_with_what_would_fit():
    with pytest.raises(TokenizerError, match=r"unigram vocabulary of 9000 .*<= \d+.*more text"):
        train_tokenizer(corpus(), stage("unigram", vocab_size=9000))
