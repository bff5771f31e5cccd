"""Documents laid out in blocks: pairs whose second text is from another document."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config import Corpus
from pd_jax.data.building import layouts
from pd_jax.data.feed import batches as batches_lib
from pd_jax.data.records.row_cache import Gathered
from pd_jax.data.text import lines
from pd_jax.data.text.corpora import Document
from pd_jax.errors import SourceError
from tests.building import DOT, FIRST_WORD, WORDS, wordpiece
from tests.unit.conftest import Vocabulary

PAIRED = Corpus(next_sentence=True, short_probability=0.0)
ORIGIN = lines.Origin("a.txt")


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks end with the document that brings them to 400 letters: a large one is a block."""
    monkeypatch.setattr(layouts, "_LETTERS_AT_ONCE", 400)


def document(words, *, first=0, number=1):
    """Sentences of one word, from word `first` on: of 100 words it is a large document."""
    return Document(tuple(f"{w}." for w in WORDS[first : first + words]), ORIGIN, number)


def records(documents, tokenizer, *, shard=0, layout=PAIRED):
    return list(
        layouts.corpus_records(documents, tokenizer, layout=layout, max_length=16, shard=shard)
    )


def words_of(record):
    """The numbers of the words that an example holds."""
    return {int(token) - FIRST_WORD for token in record.input_ids if token >= FIRST_WORD}


def test_a_large_first_document_is_paired_with_the_block_after_it(tokenizer):
    found = records([document(100), document(5, first=150, number=900)], tokenizer)
    assert {record.next_sentence for record in found} == {0, 1}
    firsts, seconds = set(range(100)), set(range(150, 155))
    assert all(words_of(record) <= firsts | seconds for record in found)
    for record in found:
        both = bool(words_of(record) & firsts) and bool(words_of(record) & seconds)
        assert both == bool(record.next_sentence)


def test_blocks_are_merged_until_two_documents_have_tokens(tokenizer):
    blank = Document(("\u200b" * 600,), ORIGIN, 5)
    large, small = document(100), document(5, first=150, number=900)
    expected = records([large, small], tokenizer)
    assert records([blank, large, blank, blank, small], tokenizer)[0].input_ids.tolist() == (
        expected[0].input_ids.tolist()
    )
    found = records([blank, large, blank, blank, small, blank, document(100, first=50)], tokenizer)
    assert len(found) > len(expected)
    with pytest.raises(SourceError, match=r"a\.txt:5: its shard has only one document"):
        records([blank, large, blank], tokenizer)
    assert records([blank, blank], tokenizer) == []


def test_only_a_shard_of_one_document_is_refused_and_only_for_pairs(tokenizer):
    with pytest.raises(SourceError, match=r"a\.txt:7: its shard has only one document"):
        records([document(100, number=7)], tokenizer)
    alone = records([document(100)], tokenizer, layout=Corpus(short_probability=0.0))
    assert [token for record in alone for token in record.input_ids if token >= FIRST_WORD] == [
        FIRST_WORD + number for number in range(100)
    ]
    assert DOT in alone[0].input_ids


def test_a_later_block_of_one_document_is_paired_with_the_block_before_it(tokenizer):
    few = [document(60), document(60, first=60)]
    blank = Document(("\u200b" * 600,), ORIGIN, 5)
    found = records([*few, document(100, first=100), blank, document(100, first=100)], tokenizer)
    assert {record.next_sentence for record in found} == {0, 1}


def test_a_first_block_of_two_documents_takes_no_more(tokenizer):
    documents = [document(60, first=first) for first in (0, 40, 80, 120)]
    together = [record.input_ids.tolist() for record in records(documents, tokenizer)]
    first = [record.input_ids.tolist() for record in records(documents[:2], tokenizer)]
    assert first == together[: len(first)]
    assert len(first) < len(together)


@given(st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 12))), st.integers(3, 20))
@settings(max_examples=200, deadline=None)
def test_a_batch_cuts_pairs_as_the_builder_does(sizes, length):
    tokens = [np.arange(1, 30), np.arange(31, 60)]
    passages = [
        layouts.Passage(tokens[0][:first], None if second is None else tokens[1][:second])
        for first, second in [(5, None), *sizes]
    ]
    rows, cut = (
        [layouts.frame(passage, Vocabulary(), max_length=most) for passage in passages]
        for most in (30, length)
    )
    zeros = [np.zeros(len(ids), np.uint8) if kinds is None else kinds for ids, kinds in rows]
    gathered = Gathered(
        tokens=np.concatenate([ids for ids, _ in rows]),
        lengths=np.array([len(ids) for ids, _ in rows], np.int32),
        segments=np.concatenate(zeros).astype(np.uint8),
        labels=None,
        next_sentence=None,
        example_ids=np.zeros((len(rows), 16), np.uint8),
    )
    batch = batches_lib.pad(gathered, length=length, pad_id=0, sep_id=102)
    for number, (ids, kinds) in enumerate(cut):
        assert batch["input_ids"][number].tolist() == [*ids, *[0] * (length - len(ids))]
        given = np.zeros(len(ids), int) if kinds is None else kinds
        assert batch["segment_ids"][number, : len(ids)].tolist() == given.tolist()
        assert batch["input_mask"][number].sum() == len(ids)
