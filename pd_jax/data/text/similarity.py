"""Measures how near a transfer set is to a labelled set, and chooses the nearest of its rows.

Nearness is Spearman's rank correlation of n-gram frequencies (after Turc et al. 2019, section 6.3,
which does not state which n-grams; here n = 1, 2 and 3 are given separately). Rows are chosen by
the cross-entropy difference of Moore and Lewis 2010.
"""

import dataclasses
import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

from pd_jax.errors import SourceError

SIZES = (1, 2, 3)
"""Words in an n-gram."""

_CHOICE_SIZES = (1, 2)
_DOUBT = 10
_ASCII_WORD = re.compile(r"\w+|[^\w\s]")
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Chinese characters: no spaces show where their words end, so each counts as one."""
_WORD_BITS = 21
_TEXTS_AT_ONCE = 4096
_WAITING_NGRAMS = 1 << 23


class Words:
    """Numbers for words, from 1; words beyond the first two million have none."""

    def __init__(self):
        self._numbers: dict[str, int] = {}

    def numbers(self, text: str) -> list[int]:
        """Returns the numbers of a text's words and punctuation marks, whatever their case."""
        known = self._numbers
        found = []
        pattern = _ASCII_WORD if text.isascii() else _any_word()
        for word in pattern.findall(text.casefold()):
            number = known.get(word, 0)
            if not number and len(known) + 1 < 1 << _WORD_BITS:
                number = known[word] = len(known) + 1
            found.append(number)
        return found


@functools.cache
def _any_word() -> re.Pattern:
    """Returns what finds the words of any script: vowels may be marks, as in Hindi and Thai."""
    numbers = range(sys.maxunicode + 1)
    marks = "".join(chr(n) for n in numbers if unicodedata.category(chr(n)).startswith("M"))
    letter = rf"[^\W{_UNSPACED}]"
    return re.compile(rf"{letter}(?:{letter}|[{marks}])*|[{_UNSPACED}][{marks}]*|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """The n-grams of a text for one n, in order of number, and how often each occurs."""

    ngrams: Int64[np.ndarray, " ngrams"]
    counts: Int64[np.ndarray, " ngrams"]

    @property
    def total(self) -> int:
        """Sum of the counts."""
        return int(self.counts.sum())

    def of(self, ngrams: Int64[np.ndarray, " wanted"]) -> Int64[np.ndarray, " wanted"]:
        """Returns the counts of these n-grams, 0 for those that do not occur."""
        if not len(self.ngrams):
            return np.zeros(len(ngrams), np.int64)
        places = np.minimum(np.searchsorted(self.ngrams, ngrams), len(self.ngrams) - 1)
        return np.where(self.ngrams[places] == ngrams, self.counts[places], 0)

    def most_frequent(self, limit: int) -> Int64[np.ndarray, " ngrams"]:
        """Returns at most `limit` n-grams, those that occur most often."""
        order = np.lexsort((self.ngrams, -self.counts))
        return self.ngrams[order[:limit]]


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation for one n, and the ranks it was taken from."""

    size: int
    value: float
    first: Float64[np.ndarray, " ngrams"]
    second: Float64[np.ndarray, " ngrams"]


def frequencies(texts: Iterable[str], words: Words) -> dict[int, Frequencies]:
    """Returns for every n of SIZES how often each n-gram occurs; none spans two texts.

    Raises:
      SourceError: where the texts have no words.
    """
    waiting: dict[int, list[Frequencies]] = {size: [] for size in SIZES}
    for block in _blocks(texts):
        stream, owners = _stream(block, words)
        for size in SIZES:
            found, _ = _ngrams(stream, owners, size)
            waiting[size].append(Frequencies(*np.unique(found, return_counts=True)))
            if sum(len(part.ngrams) for part in waiting[size]) > _WAITING_NGRAMS:
                waiting[size] = [_sum(waiting[size])]
    if not any(len(part.ngrams) for part in waiting[1]):
        raise SourceError("there are no words in the text to compare; give text with words")
    return {size: _sum(parts) for size, parts in waiting.items()}


def correlation(
    labelled: dict[int, Frequencies],
    transfer: dict[int, Frequencies],
    *,
    size: int,
    vocabulary: int,
) -> Correlation:
    """Returns the rank correlation over the `vocabulary` most frequent n-grams of the labelled set.

    An n-gram that does not occur in the transfer set has frequency 0 there; n-grams of equal
    frequency share the mean of their ranks. (Adding a constant to all counts would change no rank.)
    The transfer set's own n-grams play no part: what is frequent in one text is mostly rare in the
    other, so that choosing from both would push the correlation below 0.

    Raises:
      SourceError: where there are too few different frequencies to rank.
    """
    wanted = labelled[size].most_frequent(vocabulary)
    if not len(wanted):
        raise SourceError(
            f"no text has {size} words in a row, so there are no {size}-grams to rank;"
            " give longer texts"
        )
    ranks = [mean_ranks(text[size].of(wanted)) for text in (labelled, transfer)]
    centred = [rank - rank.mean() for rank in ranks]
    spread = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    if not spread > 0:
        raise SourceError(
            f"all {size}-grams of a text are equally frequent, so they have no ranks to correlate;"
            " give more text"
        )
    return Correlation(size, float((centred[0] * centred[1]).sum() / spread), *ranks)


def mean_ranks(values: Shaped[np.ndarray, " values"]) -> Float64[np.ndarray, " values"]:
    """Returns ranks from 1 for the smallest value; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[places]


def choose(
    texts: Iterable[str],
    *,
    near: dict[int, Frequencies],
    among: dict[int, Frequencies],
    words: Words,
    rows: int,
) -> Int64[np.ndarray, " rows"]:
    """Returns the numbers of the `rows` texts that are most like `near` and least like `among`.

    A text's score is the mean over its words and bigrams of log p(near) - log p(among), with counts
    smoothed by one and as if it had ten more that are neutral: otherwise texts of one word would
    come first by chance. Of equal scores the earlier text is taken. Numbers are in ascending order.
    """
    tables = [_ratios(near[size], among[size]) for size in _CHOICE_SIZES]
    scores = [_scores(block, tables, words) for block in _blocks(texts)]
    joined = np.concatenate([np.zeros(0, np.float32), *scores])
    order = np.lexsort((np.arange(len(joined)), -joined))
    return np.sort(order[:rows])


def picture(found: Correlation, *, width: int = 48, height: int = 16) -> str:
    """Returns a plot of ranks against ranks in characters: the darker, the more n-grams."""
    shades = " .:-=+*#%@"
    bins, _, _ = np.histogram2d(found.second, found.first, bins=(height, width))
    largest = bins.max()
    lines = []
    for row in bins[::-1]:
        shown = np.ceil(np.sqrt(row / largest) * (len(shades) - 1)).astype(int)
        lines.append("  |" + "".join(shades[shade] for shade in shown))
    return "\n".join([*lines, "  +" + "-" * width])


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == _TEXTS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _stream(block: Sequence[str], words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Returns the block's words one after another, with 0 after each text, and each word's text."""
    numbers = [np.array([*words.numbers(text), 0], np.int64) for text in block]
    owners = np.repeat(np.arange(len(block)), [len(part) for part in numbers])
    return np.concatenate(numbers), owners


def _ngrams(stream: np.ndarray, owners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the n-grams without a 0, as one number each, and the text each is from."""
    count = max(0, len(stream) - size + 1)
    found, whole = np.zeros(count, np.int64), np.ones(count, bool)
    for offset in range(size):
        part = stream[offset : offset + count]
        found = (found << _WORD_BITS) | part
        whole &= part > 0
    return found[whole], owners[:count][whole]


def _sum(parts: Sequence[Frequencies]) -> Frequencies:
    if not parts:
        return Frequencies(np.zeros(0, np.int64), np.zeros(0, np.int64))
    ngrams, places = np.unique(np.concatenate([part.ngrams for part in parts]), return_inverse=True)
    counts = np.concatenate([part.counts for part in parts])
    return Frequencies(ngrams, np.bincount(places, counts, len(ngrams)).astype(np.int64))


class _Ratios(NamedTuple):
    """log p(near) - log p(among) of each n-gram, in order of number, and of those in neither."""

    ngrams: np.ndarray
    values: np.ndarray
    unknown: float


def _ratios(near: Frequencies, among: Frequencies) -> _Ratios:
    ngrams = np.union1d(near.ngrams, among.ngrams)
    unknown = np.log((among.total + len(ngrams)) / (near.total + len(ngrams)))
    values = np.log((near.of(ngrams) + 1) / (among.of(ngrams) + 1)) + unknown
    return _Ratios(ngrams, values, float(unknown))


def _scores(
    block: Sequence[str], tables: Sequence[_Ratios], words: Words
) -> Float32[np.ndarray, " texts"]:
    stream, owners = _stream(block, words)
    total, count = np.zeros(len(block)), np.zeros(len(block))
    for size, table in zip(_CHOICE_SIZES, tables, strict=True):
        found, text = _ngrams(stream, owners, size)
        places = np.minimum(np.searchsorted(table.ngrams, found), len(table.ngrams) - 1)
        known = table.ngrams[places] == found
        values = np.where(known, table.values[places], table.unknown)
        total += np.bincount(text, values, len(block))
        count += np.bincount(text, minlength=len(block))
    return np.where(count > 0, total / (count + _DOUBT), -np.inf).astype(np.float32)
