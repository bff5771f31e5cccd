"""Next sentences of text in which no sentences were found, or few."""

import numpy as np
import pytest

from pd_jax.config import Corpus, Rows
from pd_jax.data.building import layouts
from pd_jax.data.building.build import build_records
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.doubts import doubts
from pd_jax.data.text import lines
from pd_jax.data.text.corpora import Document
from tests.building import CLS, FIRST_WORD, SEP, UNK, WORDS, stage, wordpiece, write_corpus

ORIGIN = lines.Origin("a.txt")


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


def long_document(number, words):
    """One sentence whose words count on from a start of its own."""
    start = 37 * number
    text = " ".join(WORDS[(start + k) % len(WORDS)] for k in range(words))
    return Document((text,), ORIGIN, number)


def passages(record):
    """The words of an example's two passages, by their numbers."""
    ids = record.input_ids.tolist()
    middle = ids.index(SEP)
    assert ids[0] == CLS and ids[-1] == SEP
    return [[one - FIRST_WORD for one in part] for part in (ids[1:middle], ids[middle + 1 : -1])]


@pytest.mark.parametrize("short", [0.0, 0.3])
@pytest.mark.parametrize("max_length", [32, 33])
def test_documents_without_sentences_are_paired_whole_and_in_both_classes(
    tokenizer, max_length, short
):
    documents = [long_document(number, 60 + 31 * number) for number in range(40)]
    layout = Corpus(next_sentence=True, short_probability=short)
    found = list(
        layouts.corpus_records(documents, tokenizer, layout=layout, max_length=max_length, shard=0)
    )
    labels = np.array([record.next_sentence for record in found])
    assert 0.4 < labels.mean() < 0.75
    assert max(len(record.input_ids) for record in found) == max_length
    read = []
    for record in found:
        first, second = passages(record)
        assert first and second
        read += first if record.next_sentence else first + second
        if not record.next_sentence:
            assert second[0] == (first[-1] + 1) % len(WORDS)
    expected = [WORDS.index(word) for one in documents for word in one.sentences[0].split()]
    assert read == expected  # all of the text, in its order


@pytest.mark.parametrize("size", [30, 31, 59, 60, 61, 200])
@pytest.mark.parametrize("room", [29, 30])
def test_a_sentence_is_parted_only_where_it_is_longer_than_the_room(size, room):
    tokens = np.arange(size)
    parts = layouts._parted([tokens, tokens[:5]], room=room)
    assert np.concatenate(parts).tolist() == [*range(size), *range(5)]
    if size <= room:
        assert len(parts) == 2
        return
    sizes = [len(part) for part in parts[:-1]]
    pairs = [one + two for one, two in zip(sizes[:-1], sizes[1:], strict=True)]
    assert all(pair == room for pair in pairs[:-1]) and all(pair <= room for pair in pairs)


def test_sentences_that_fit_are_paired_as_ever(tmp_path, tokenizer, monkeypatch):
    path = write_corpus(tmp_path / "a.txt", documents=60, sentences=20)
    made = stage(path, Corpus(next_sentence=True, short_probability=0.1), max_length=32)
    now = build_records(made, tokenizer, tmp_path / "now", name="a", workers=1)
    monkeypatch.setattr(layouts, "_parted", lambda document, room: document)
    before = build_records(made, tokenizer, tmp_path / "before", name="a", workers=1)
    assert now.fingerprint == before.fingerprint


def doubts_of(tmp_path, tokenizer, examples, **sizes):
    folder = tmp_path / "set"
    path = write_corpus(tmp_path / "a.txt", **sizes)
    build_records(stage(path, examples, max_length=64), tokenizer, folder, name="a", workers=1)
    layout = examples.layout
    return doubts(Dataset.open(folder), unk_id=UNK, layout=layout)


def test_pairs_of_documents_with_one_sentence_are_doubted(tmp_path, tokenizer):
    (doubt,) = doubts_of(
        tmp_path, tokenizer, Corpus(next_sentence=True), documents=200, sentences=1
    )
    assert doubt.startswith("100% of the pairs in ") and "leave next_sentence out" in doubt


@pytest.mark.parametrize(
    ("examples", "documents", "sentences"),
    [
        (Corpus(next_sentence=True), 200, 12),
        (Corpus(next_sentence=True), 400, 2),
        (Corpus(next_sentence=True), 20, 1),  # too few to tell
        (Corpus(), 200, 1),
        (Rows(), 200, 1),
    ],
)
def test_other_datasets_are_not_doubted(tmp_path, tokenizer, examples, documents, sentences):
    sizes = {"documents": documents, "sentences": sentences}
    assert doubts_of(tmp_path, tokenizer, examples, **sizes) == []
