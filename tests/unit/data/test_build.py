"""Datasets built from rows and documents: the right tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config import Corpus, Rows
from pd_jax.data.building import layouts
from pd_jax.data.building.build import build_records
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import example_id
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib
from pd_jax.errors import ConfigError, SourceError
from tests.building import (
    CLS,
    DOT,
    FIRST_WORD,
    SEP,
    WORDS,
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
    build_rows,
    rows_of,
    stage,
    wordpiece,
    write_corpus,
)


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


# ---- rows --------------------------------------------------------------------------------------


def test_single_sentences_are_framed_and_cut(tmp_path, tokenizer):
    manifest = build_rows(
        tmp_path, tokenizer, "a b\n\nc\na b c d e f g h\n", Rows(), name="a.txt", max_length=8
    )
    ids, gathered = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, SEP], [CLS, C, SEP], [CLS, A, B, C, D, E, F, SEP]]
    assert gathered.segments is None and gathered.labels is None
    assert (manifest.rows, manifest.tokens, manifest.max_length, manifest.task) == (3, 15, 8, None)
    assert gathered.example_ids[1].tobytes() == example_id("c")
    again = tokenizer_lib.load_tokenizer(tmp_path / "set" / "tokenizer")
    assert again.fingerprint == manifest.tokenizer.fingerprint == tokenizer.fingerprint


def test_pairs_give_up_tokens_of_the_longer_text(tmp_path, tokenizer):
    content = "one\ttwo\na b c d e f\tg h\na b\tc d e f g\na b c d e f\ta b c d e f\n"
    columns = {"text": "one", "pair": "two"}
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, max_length=10)
    ids, gathered = rows_of(tmp_path / "set")
    assert ids == [
        [CLS, A, B, C, D, E, SEP, G, H, SEP],
        [CLS, A, B, SEP, C, D, E, F, G, SEP],
        [CLS, A, B, C, D, SEP, A, B, C, SEP],
    ]
    assert gathered.segments.reshape(3, 10).tolist() == [
        [0] * 7 + [1] * 3, [0] * 4 + [1] * 6, [0] * 6 + [1] * 4
    ]  # fmt: skip
    assert gathered.example_ids[0].tobytes() == example_id("a b c d e f", "g h")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 40))
def test_truncation_equals_taking_one_token_after_the_other(first, second, room):
    one, two = first, second
    while one + two > room:
        if one > two:
            one -= 1
        else:
            two -= 1
    assert layouts.shortened(first, second, room=room) == (one, two)


def test_classes_are_numbered_as_they_are_named(tmp_path, tokenizer):
    content = "text\tlabel\na\tgood\nb\tbad\nc\t1\n"
    labelled = Rows(task="classification", labels=("bad", "good"))
    manifest = build_rows(tmp_path, tokenizer, content, labelled, columns={"label": "label"})
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [1, 0, 1]
    assert manifest.labels == ("bad", "good") and manifest.task == "classification"


def test_booleans_are_labels_where_those_are_0_and_1(tmp_path, tokenizer):
    content = "text\tlabel\na\tTrue\nb\tFalse\nc\t1\n"
    build_rows(tmp_path, tokenizer, content, BINARY, columns={"label": "label"})
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("labels", [("0", "1"), ("0.0", "1.0"), ("no", "yes")])
def test_whole_numbers_are_labels_however_a_table_writes_them(tmp_path, tokenizer, labels):
    content = "text\tlabel\na\t1.0\nb\t0\nc\t1\nd\t0.00\n"
    layout = Rows(task="classification", labels=labels)
    build_rows(tmp_path, tokenizer, content, layout, columns={"label": "label"})
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("labels", [("0", "1"), ("0.0", "1.0"), ("no", "yes")])
def test_several_whole_numbers_are_labels(tmp_path, tokenizer, labels):
    layout = Rows(task="multilabel", labels=labels)
    content = "text\tlabel\na\t0.0|1.0\nb\t\nc\t1.0\n"
    build_rows(tmp_path, tokenizer, content, layout, columns={"label": "label"})
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_regression_and_several_labels(tmp_path, tokenizer):
    columns = {"label": "label"}
    content = "text\tlabel\na\t2.5\nb\t-1e3\n"
    build_rows(tmp_path, tokenizer, content, Rows(task="regression"), columns=columns)
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [2.5, -1000.0]
    content = "text\tlabel\na\tx|z\nb\t\nc\ty\n"
    several = Rows(task="multilabel", labels=("x", "y", "z"))
    build_rows(tmp_path, tokenizer, content, several, columns=columns)
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


BINARY = Rows(task="classification", labels=("0", "1"))
NAMED = Rows(task="classification", labels=("no", "yes"))
SIGNED = Rows(task="classification", labels=("+1", "-1"))
SEVERAL = Rows(task="multilabel", labels=("x", "y"))


@pytest.mark.parametrize(
    ("examples", "content", "message"),
    [
        (BINARY, "a\t0\nb\t2\n", r"rows\.tsv:3: label '2' is not one of '0', '1'"),
        (NAMED, "a\tmaybe\n", r"rows\.tsv:2: label 'maybe' is not one of 'no', 'yes'"),
        (SIGNED, "a\t1\n", r"rows\.tsv:2: label '1' is not one of '\+1', '-1'"),
        (NAMED, "a\t2\n", r"rows\.tsv:2: label '2' is not one of 'no', 'yes'"),
        (SEVERAL, "a\tx|q\n", r"rows\.tsv:2: label 'q' is not one of 'x', 'y'"),
        (Rows(task="regression"), "a\thigh\n", r"rows\.tsv:2: label 'high' is not a number"),
        (Rows(task="regression"), "a\tnan\n", r"rows\.tsv:2: label 'nan' is not a number"),
        (Rows(task="regression"), "a\t1e39\n", r"rows\.tsv:2: label '1e39' is not a number that f"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_named_with_file_and_line(
    tmp_path, tokenizer, examples, content, message
):
    with pytest.raises(SourceError, match=message):
        build_rows(
            tmp_path, tokenizer, "text\tlabel\n" + content, examples, columns={"label": "label"}
        )
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_task_and_columns_must_fit_each_other(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="needs a column of labels"):
        build_rows(tmp_path, tokenizer, "text\na\n", Rows(task="regression"))
    with pytest.raises(ConfigError, match="there is no task"):
        build_rows(tmp_path, tokenizer, "text\ty\na\t0\n", Rows(), columns={"label": "y"})
    with pytest.raises(ConfigError, match="'y' names a column of second .* corpus has no pairs"):
        build_rows(tmp_path, tokenizer, "text\ty\na\tb\n", Corpus(), columns={"pair": "y"})
    with pytest.raises(ConfigError, match="leaves no room"):
        build_rows(tmp_path, tokenizer, "text\na\n", Rows(), max_length=4)


@pytest.mark.parametrize("examples", [Rows(), Corpus()])
@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_an_empty_corpus_is_refused_by_name(tmp_path, tokenizer, examples, content):
    with pytest.raises(SourceError, match=r"a\.txt: there is no(thing to read| text);"):
        build_rows(tmp_path, tokenizer, content, examples, name="a.txt")


# ---- documents ---------------------------------------------------------------------------------


def test_documents_fill_sequences_and_lose_no_token(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt")
    build_records(stage(path, Corpus(short_probability=0.0)), tokenizer, tmp_path / "set", name="a")
    ids, gathered = rows_of(tmp_path / "set")
    assert all(row[0] == CLS and row[-1] == SEP for row in ids)
    documents = path.read_text().split("\n\n")
    expected = [
        tokenizer.encode([document.replace("\n", " ")])[0].tolist() for document in documents
    ]
    assert sum((row[1:-1] for row in ids), []) == sum(expected, [])
    # Each document fills its sequences to the last one, which takes the rest.
    lengths = [[14] * (len(d) // 14) + ([len(d) % 14] if len(d) % 14 else []) for d in expected]
    assert [len(row) - 2 for row in ids] == sum(lengths, [])
    assert gathered.next_sentence is None and gathered.segments is None


def test_a_share_of_the_sequences_is_short(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt", documents=1, sentences=20_000)
    made = stage(path, Corpus(short_probability=0.25), max_length=32)
    build_records(made, tokenizer, tmp_path / "set", name="a")
    lengths = Dataset.open(tmp_path / "set").lengths - 2
    # A short target is uniform on 2 to 30, so 28 of 29 short ones show: 0.25 * 28 / 29 = 0.241.
    share = (lengths < 30).mean()
    assert abs(share - 0.241) < 5 * (0.241 * 0.759 / len(lengths)) ** 0.5
    assert lengths.max() == 30 and set(lengths.tolist()) == set(range(2, 31))


def test_next_sentences_follow_or_come_from_elsewhere(tmp_path, tokenizer):
    # Each document counts words from its own start, so a passage that follows continues counting.
    path = write_corpus(tmp_path / "a.txt", documents=300, sentences=40)
    made = stage(path, Corpus(next_sentence=True, short_probability=0.1), max_length=64)
    build_records(made, tokenizer, tmp_path / "set", name="a")
    ids, gathered = rows_of(tmp_path / "set")
    follows = []
    for row in ids:
        middle = row.index(SEP)
        assert row[0] == CLS and row[-1] == SEP and row.count(SEP) == 2 and len(row) <= 64
        one = [number - FIRST_WORD for number in row[1:middle] if number != DOT]
        two = [number - FIRST_WORD for number in row[middle + 1 : -1] if number != DOT]
        assert all(
            (b - a) % len(WORDS) == 1
            for part in (one, two)
            for a, b in zip(part, part[1:], strict=False)
        )
        follows.append((two[0] - one[-1]) % len(WORDS) if one and two else None)
    labels = gathered.next_sentence
    full = gathered.lengths == 64
    known = [
        (gap, label)
        for gap, label, whole in zip(follows, labels, full, strict=True)
        if gap and not whole
    ]
    assert len(known) > 300
    # What was cut to fit may have lost its ends; nothing else may break the count.
    assert all(gap == 1 for gap, label in known if label == 0)
    assert sum(gap == 1 for gap, label in known if label == 1) < 0.05 * len(known)
    # Half, and a little more: the last sentence of a document has nothing that follows it.
    assert 0.48 < labels.mean() < 0.62
    second = [row.index(SEP) + 1 for row in ids]
    ends = np.split(gathered.segments, np.cumsum(gathered.lengths)[:-1])
    assert all(
        part.tolist() == [0] * at + [1] * (len(part) - at)
        for part, at in zip(ends, second, strict=True)
    )


def test_a_single_document_has_no_random_next_sentence(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt", documents=1)
    with pytest.raises(SourceError, match=r"a\.txt:1: its shard has only one document"):
        build_records(
            stage(path, Corpus(next_sentence=True)), tokenizer, tmp_path / "set", name="a"
        )


def test_chance_depends_on_the_seed_and_on_the_shard(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt")
    prints = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"set{len(prints)}"
        made = stage(path, Corpus(seed=seed, short_probability=0.5))
        prints.append(build_records(made, tokenizer, folder, name="a").fingerprint)
    assert prints[0] == prints[1] != prints[2]
