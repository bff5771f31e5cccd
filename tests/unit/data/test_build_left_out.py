"""Duplicates, and what evaluation sets hold, are left out of a dataset."""

import numpy as np
import pytest

from pd_jax import files
from pd_jax.config import Corpus, Rows, Source
from pd_jax.data.building import filters
from pd_jax.data.building.build import build_records
from pd_jax.data.text import corpora
from pd_jax.errors import SourceError
from tests.building import (
    CLS,
    DOT,
    SEP,
    WORDS,
    A,
    B,
    C,
    D,
    E,
    F,
    build_rows,
    rows_of,
    stage,
    wordpiece,
)


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


def numbered(number):
    """A text for every number up to 40,000, of words of the vocabulary."""
    return f"{WORDS[number % 200]} {WORDS[number // 200]}"


def test_duplicates_are_left_out_wherever_they_are(tmp_path, tokenizer):
    chance = np.random.default_rng(0)
    numbers = chance.integers(0, 700, 3_000).tolist()
    for name, part in (("a", numbers[:1_000]), ("b", numbers[1_000:])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{numbered(n)}\n" for n in part))
    expected = [tokenizer.encode([numbered(n)])[0].tolist() for n in dict.fromkeys(numbers)]
    prints = []
    for workers in (1, 3):
        folder = tmp_path / f"set{workers}"
        made = stage(tmp_path / "?.txt", Rows(), shards=7, deduplicate=True)
        manifest = build_records(made, tokenizer, folder, name="a", workers=workers)
        ids, _ = rows_of(folder)
        assert [row[1:-1] for row in ids] == expected  # the first of each, in order
        left_out = {"duplicates": 3_000 - len(expected), "excluded": 0}
        assert manifest.arguments["left_out"] == left_out
        prints.append(manifest.fingerprint)
        again = build_records(made, tokenizer, folder, name="a", workers=workers)
        assert again == manifest
    assert prints[0] == prints[1]


def test_duplicates_in_a_bucket_are_those_in_a_folder(tmp_path, monkeypatch):
    shards = [filters.Filter(str(tmp_path), number, "names", None) for number in range(3)]
    for shard, numbers in zip(shards, ([5, 6, 5], [7, 6], [8, 7, 9]), strict=True):
        texts = [corpora.Row(numbered(number), None, None, None, 1) for number in numbers]
        filters.scan(shard, texts)
    for remote in (True, False):
        monkeypatch.setattr(files, "is_remote", lambda path, remote=remote: remote)
        everything = filters.match(shards)
        held = [shard.duplicates_file(everything) for shard in shards]
        assert [np.load(path).tolist() for path in held] == [[2], [1], [1]]
        for path in held:
            path.unlink()


def test_a_pair_is_a_duplicate_only_as_a_whole(tmp_path, tokenizer):
    content = "one\ttwo\na\tb\na\tc\na b\t\na\tb\n"
    columns = {"text": "one", "pair": "two"}
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, deduplicate=True)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, SEP, B, SEP], [CLS, A, SEP, C, SEP], [CLS, A, B, SEP, SEP]]


def test_whole_documents_are_duplicates(tmp_path, tokenizer):
    content = "a b\nc d\n\ne f\n\na b\nc d\n\na b\n"
    build_rows(tmp_path, tokenizer, content, Corpus(), name="a.txt", deduplicate=True)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, C, D, SEP], [CLS, E, F, SEP], [CLS, A, B, SEP]]


def test_rows_of_evaluation_sets_are_left_out_however_they_are_spelt(tmp_path, tokenizer):
    evaluation = tmp_path / "dev.tsv"
    evaluation.write_text("text\tlabel\nA b, c .\t0\n...\t1\n")
    exclude = (Source(path=str(evaluation)),)
    content = "a b c\nd\na  B c!\n...\nc b a\n"
    manifest = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", exclude=exclude)
    ids, _ = rows_of(tmp_path / "set")
    # Three dots name nothing: a text without letters is never taken for another.
    assert ids == [[CLS, D, SEP], [CLS, DOT, DOT, DOT, SEP], [CLS, C, B, A, SEP]]
    assert manifest.arguments["left_out"] == {"duplicates": 0, "excluded": 2}
    evaluation.write_text("text\tlabel\nd\t0\n")
    second = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", exclude=exclude)
    assert second.rows == 4, "another evaluation set leaves out other rows"


def test_sentences_of_evaluation_sets_are_left_out_of_documents(tmp_path, tokenizer):
    evaluation = tmp_path / "dev.tsv"
    evaluation.write_text("one\ttwo\na b\tc d\n")
    exclude = (Source(path=str(evaluation), text="one", pair="two"),)
    content = "a b\ne f\nc d\n\nc d\n"
    build_rows(tmp_path, tokenizer, content, Corpus(), name="a.txt", exclude=exclude)
    assert rows_of(tmp_path / "set")[0] == [[CLS, E, F, SEP]]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.tsv", "text\nA b! C d.\ne f. a b.\nc d. e f. e f.\n"),
        ("a.txt", "A b!\nC d.\n\ne f.\na b.\n\nc d.\ne f.\ne f.\n"),
    ],
)
def test_documents_that_are_texts_of_evaluation_sets_are_left_out(
    tmp_path, tokenizer, name, content
):
    evaluation = tmp_path / "dev.tsv"
    evaluation.write_text("text\na b. c d.\ne f\n")
    exclude = (Source(path=str(evaluation)),)
    manifest = build_rows(tmp_path, tokenizer, content, Corpus(), name=name, exclude=exclude)
    # Sentences of a longer document go alone, and only where one is a whole evaluation text.
    assert rows_of(tmp_path / "set")[0] == [[CLS, A, B, DOT, SEP], [CLS, C, D, DOT, SEP]]
    assert manifest.arguments["left_out"] == {"duplicates": 0, "excluded": 4}


def test_held_out_documents_are_left_out_whole(tmp_path, tokenizer):
    content = "a b\nc d\n\ne f\n\na b\nc\ne f\n\nE F.\n\nd\n"
    held_out = Source(path=str(tmp_path / "a.txt"), documents=2)
    build_rows(tmp_path, tokenizer, content, Corpus(), name="a.txt", exclude=(held_out,))
    # Sentences of a held-out document, even its only one, stay where another document has them.
    assert rows_of(tmp_path / "set")[0] == [[CLS, A, B, C, E, F, SEP], [CLS, D, SEP]]
    made = stage(held_out.path, Corpus(), columns={"documents": 2})
    build_records(made, tokenizer, tmp_path / "held_out", name="a")
    assert rows_of(tmp_path / "held_out")[0] == [[CLS, A, B, C, D, SEP], [CLS, E, F, SEP]]


def test_pairs_of_evaluation_sets_are_left_out_as_pairs(tmp_path, tokenizer):
    content = "one\ttwo\na b\tc d\na b\tc\na\tc d\n"
    columns = {"text": "one", "pair": "two"}
    (tmp_path / "dev.tsv").write_text("one\ttwo\nA b\tC d.\n")
    exclude = (Source(path=str(tmp_path / "dev.tsv"), **columns),)
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, exclude=exclude)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, SEP, C, SEP], [CLS, A, SEP, C, D, SEP]]


def test_a_dataset_of_which_nothing_is_left_is_refused(tmp_path, tokenizer):
    (tmp_path / "dev.txt").write_text("a\n")
    exclude = (Source(path=str(tmp_path / "dev.txt")),)
    with pytest.raises(SourceError, match="all of the text was left out.*'excluded': 2"):
        build_rows(tmp_path, tokenizer, "a\nA\n", Rows(), name="a.txt", exclude=exclude)


def test_texts_that_differ_in_their_marks_are_different_texts():
    assert filters.key("दिन") != filters.key("दान") and filters.key("ม้า") != filters.key("มา")
    assert filters.key("Café, ❤️ it!") == filters.key("cafe\u0301 it") != filters.key("cafe it")
