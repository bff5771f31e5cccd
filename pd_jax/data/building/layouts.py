"""Turns text into examples: rows as they are, or documents packed into full sequences as in BERT.

Everything here is a pure function of text, tokenizer and settings. Randomness comes from (seed,
shard, block of documents) alone, so a shard is the same whoever makes it, and whenever.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int32

from pd_jax.config import Corpus, Rows
from pd_jax.data.records.shards import ID_BYTES, Record, example_id
from pd_jax.data.text.corpora import Document
from pd_jax.data.text.tables import LABEL_SEPARATOR, Row, label_text
from pd_jax.data.tokenizers.tokenizer import Tokenizer
from pd_jax.errors import SourceError

_ROWS_AT_ONCE = 256
_LETTERS_AT_ONCE = 1 << 20
_RANDOM_NEXT = 0.5
_LARGEST = float(np.finfo(np.float32).max)

T = TypeVar("T")
Tokens = Int32[np.ndarray, " tokens"]


class Passage(NamedTuple):
    """An example before its special tokens: one text or two, and whether the second is random."""

    first: Tokens
    second: Tokens | None = None
    random_next: int | None = None


def row_records(
    rows: Iterable[Row], tokenizer: Tokenizer, *, layout: Rows, max_length: int
) -> Iterator[Record]:
    """Yields an example per row: `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]`.

    In a pair that is too long, tokens are removed from the end of the longer text.

    Raises:
      SourceError: at a label that does not fit the task, naming file and line.
    """
    read_label = _LabelReader(layout)
    for block in _blocks(rows, _row_letters):
        firsts = tokenizer.encode([row.text for row in block], limit=max_length)
        pairs = [row.pair for row in block if row.pair is not None]
        seconds = iter(tokenizer.encode(pairs, limit=max_length))
        for row, first in zip(block, firsts, strict=True):
            second = None if row.pair is None else next(seconds)
            ids, segments = frame(Passage(first, second), tokenizer, max_length=max_length)
            yield Record(ids, segments, example_id(row.text, row.pair), label=read_label(row))


def corpus_records(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    layout: Corpus,
    max_length: int,
    shard: int,
) -> Iterator[Record]:
    """Yields examples of `max_length` tokens, a share of them shorter, each from one document.

    With `next_sentence` an example has two passages; in half of the examples, the second one is
    from another document; sentences that are longer than an example are parted. The id of an
    example is a digest of its tokens.

    Raises:
      SourceError: where next sentences are wanted from a shard with a single document.
    """
    before: list[list[Tokens]] = []
    blocks = _tokenised_blocks(documents, tokenizer, paired=layout.next_sentence)
    for number, tokenised in enumerate(blocks):
        chance = np.random.default_rng([layout.seed, shard, number])
        if not layout.next_sentence:
            passages = _full_sequences(tokenised, chance, layout, room=max_length - 2)
        else:
            tokenised = [_parted(document, room=max_length - 3) for document in tokenised]
            others = tokenised if len(tokenised) > 1 else [*tokenised, *before]
            passages = _next_sentences(tokenised, others, chance, layout, room=max_length - 3)
        for passage in passages:
            ids, segments = frame(passage, tokenizer, max_length=max_length)
            name = hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=ID_BYTES).digest()
            yield Record(ids, segments, name, next_sentence=passage.random_next)
        before = tokenised or before


def frame(
    passage: Passage, tokenizer: Tokenizer, *, max_length: int
) -> tuple[Tokens, Tokens | None]:
    """Returns ids with special tokens, cut longest first, and the segments of a pair."""
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    first, second = passage.first, passage.second
    if second is None:
        size = min(len(first), max_length - 2)
        ids = np.empty(size + 2, np.int32)
        ids[0], ids[1 : size + 1], ids[-1] = cls, first[:size], sep
        return ids, None
    one, two = shortened(len(first), len(second), room=max_length - 3)
    ids = np.empty(one + two + 3, np.int32)
    ids[0], ids[1 : one + 1], ids[one + 1] = cls, first[:one], sep
    ids[one + 2 : -1], ids[-1] = second[:two], sep
    segments = np.zeros(len(ids), np.int32)
    segments[one + 2 :] = 1
    return ids, segments


def shortened(first: int, second: int, *, room: int) -> tuple[int, int]:
    """Returns the lengths left when the longer of two gives up one token until both fit.

    Where both are equally long, the second gives one up, as in BERT's code.
    """
    if first + second <= room:
        return first, second
    second = min(second, max(room // 2, room - first))
    return room - second, second


def _full_sequences(
    documents: Sequence[Sequence[Tokens]],
    chance: np.random.Generator,
    layout: Corpus,
    *,
    room: int,
) -> Iterator[Passage]:
    """Yields each document's tokens in sequences that fill the room, losing none."""
    for document in documents:
        tokens, start = np.concatenate(document), 0
        while start < len(tokens):
            end = start + _target(chance, layout, room=room)
            yield Passage(tokens[start:end])
            start = end


def _next_sentences(
    documents: Sequence[Sequence[Tokens]],
    others: Sequence[Sequence[Tokens]],
    chance: np.random.Generator,
    layout: Corpus,
    *,
    room: int,
) -> Iterator[Passage]:
    """Yields pairs of passages, as create_instances_from_document of google-research/bert does.

    Sentences are gathered until they fill the room and cut in two at a sentence. A random second
    passage leaves the sentences it replaces to the next pair.
    """
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            target = _target(chance, layout, room=room)
            end, size = start, 0
            while end < len(document) and size < target:
                size += len(document[end])
                end += 1
            middle = start + 1 + int(chance.random() * (end - start - 1))
            first = np.concatenate(document[start:middle])
            if middle == end or chance.random() < _RANDOM_NEXT:
                wanted = max(1, target - len(first))
                second = _passage_of_another(others, number, chance, wanted=wanted)
                random_next, start = 1, middle
            else:
                second, random_next, start = np.concatenate(document[middle:end]), 0, end
            one, two = shortened(len(first), len(second), room=room)
            cut_first, cut_second = _cut(first, one, chance), _cut(second, two, chance)
            yield Passage(cut_first, cut_second, random_next)


def _parted(document: Sequence[Tokens], *, room: int) -> list[Tokens]:
    """Returns a document's sentences, those that are longer than the room in parts of half of it.

    Parts beside each other fill the room, so that a pair of them loses nothing. A part as long as
    the room would be paired with random texts only, and cut.
    """
    parts: list[Tokens] = []
    for sentence in document:
        if len(sentence) <= room:
            parts.append(sentence)
            continue
        # Half an odd room is rounded up once and down once, so that two parts fill it.
        ends = [(half * room + 1) // 2 for half in range(1, 2 * len(sentence) // room + 1)]
        parts += [part for part in np.split(sentence, ends) if len(part)]
    return parts


def _passage_of_another(
    others: Sequence[Sequence[Tokens]], this: int, chance: np.random.Generator, *, wanted: int
) -> Tokens:
    """Returns at least `wanted` tokens, if possible, from a random place in another document."""
    other = int(chance.random() * (len(others) - 1))
    document = others[other + (other >= this)]
    start = end = int(chance.random() * len(document))
    size = 0
    while end < len(document) and size < wanted:
        size += len(document[end])
        end += 1
    return np.concatenate(document[start:end])


def _cut(tokens: Tokens, size: int, chance: np.random.Generator) -> Tokens:
    """Returns `size` of the tokens; each surplus one is dropped from the front or end by chance."""
    surplus = len(tokens) - size
    front = int((chance.random(surplus) < 0.5).sum()) if surplus else 0
    return tokens[front : front + size]


def _target(chance: np.random.Generator, layout: Corpus, *, room: int) -> int:
    """Returns how many tokens to gather: the room, or with `short_probability` 2 to all of it.

    It is drawn for every example, where BERT's code draws once per document: a document may be a
    MiB long here, and would sometimes be split into hundreds of thousands of tiny examples.
    """
    if chance.random() < layout.short_probability:
        return 2 + int(chance.random() * (room - 1))
    return room


def _tokenised_blocks(
    documents: Iterable[Document], tokenizer: Tokenizer, *, paired: bool
) -> Iterator[list[list[Tokens]]]:
    """Yields blocks of documents as tokens; if `paired`, the first block has two or more.

    Raises:
      SourceError: where they are to be paired, and only one has tokens.
    """
    alone: list[list[Tokens]] = []
    start: Document | None = None
    for block in _blocks(documents, _document_letters):
        tokenised = [*alone, *_tokenised(block, tokenizer)]
        if paired and len(tokenised) < 2:
            alone, start = tokenised, start or block[0]
            continue
        alone, paired = [], False
        yield tokenised
    if alone and start is not None:
        raise SourceError(
            f"{start.where}: its shard has only one document, so there is no random"
            " next sentence; put blank lines between documents or make fewer shards"
        )


def _tokenised(block: Sequence[Document], tokenizer: Tokenizer) -> list[list[Tokens]]:
    """Returns the documents' sentences as tokens, without those that have none."""
    found = iter(tokenizer.encode([text for document in block for text in document.sentences]))
    documents = [[next(found) for _ in document.sentences] for document in block]
    documents = [[tokens for tokens in document if len(tokens)] for document in documents]
    return [document for document in documents if document]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _LabelReader:
    """Turns a row's label from text into what the task trains on."""

    def __init__(self, layout: Rows):
        self._task, self._labels = layout.task, layout.labels
        self._numbers = {label_text(label): number for number, label in enumerate(layout.labels)}
        if not any(map(_is_number, layout.labels)):
            # Public sets often give a class by its number where its name is known from elsewhere.
            self._numbers |= {str(number): number for number in range(len(layout.labels))}
        elif {"0", "1"} <= set(layout.labels):  # a column of booleans
            self._numbers = {
                "False": self._numbers["0"],
                "True": self._numbers["1"],
                **self._numbers,
            }

    def __call__(self, row: Row) -> int | float | tuple[int, ...] | None:
        if self._task is None:
            return None
        if row.label is None:
            raise SourceError(
                f"{row.where} has null for a label; correct the row or name another column"
            )
        if self._task == "regression":
            return self._value(row, row.label)
        if self._task == "classification":
            return self._number(row, row.label)
        given = (
            {
                self._number(row, label_text(part.strip()))
                for part in row.label.split(LABEL_SEPARATOR)
            }
            if row.label
            else set()
        )
        return tuple(int(number in given) for number in range(len(self._labels)))

    def _number(self, row: Row, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:
            known = ", ".join(map(repr, self._labels))
            raise SourceError(
                f"{row.where}: label {label!r} is not one of {known};"
                " correct the row or name all labels"
            )
        return number

    def _value(self, row: Row, label: str) -> float:
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not abs(value) <= _LARGEST:
            raise SourceError(
                f"{row.where}: label {label!r} is not a number that float32 can hold; correct the"
                " row"
            )
        return value


def _blocks(items: Iterable[T], letters: Callable[[T], int]) -> Iterator[list[T]]:
    """Yields items in lists that are large enough for speed and small enough for memory."""
    block: list[T] = []
    size = 0
    for item in items:
        block.append(item)
        size += letters(item)
        if size >= _LETTERS_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def _row_letters(row: Row) -> int:
    # A row costs something however short it is: this makes blocks of about 256 short rows.
    return _LETTERS_AT_ONCE // _ROWS_AT_ONCE + len(row.text) + len(row.pair or "")


def _document_letters(document: Document) -> int:
    return 64 + sum(map(len, document.sentences))
