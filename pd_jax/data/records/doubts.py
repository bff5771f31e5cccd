"""What a user may not expect of a dataset that was just built, though nothing in it is damaged."""

from collections.abc import Iterator

import numpy as np

from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.row_cache import Gathered

_SAMPLED_SPOTS, _ROWS_OF_A_SPOT = 8, 128
_MUCH_UNKNOWN = _MUCH_CUT = 0.01
_MOSTLY_RANDOM = 0.75
"""It is 0.5 in long documents, two thirds in those of two sentences, and 1 in those of one."""
_FEWEST_PAIRS = 100
_FRAME = 2
"""Tokens of a text without words: the first and the last of the frame."""
_BLOCK_ROWS, _MOST_ROWS = 4096, 1 << 18
"""Of a larger dataset only the first rows are read for their labels: sorted ones show there."""


def doubts(dataset: Dataset, *, unk_id: int, layout: str) -> list[str]:
    """Returns a sentence for each, with what to do about it."""
    sample = _sample(dataset)
    found = [_broken_rows(dataset), _strange_text(dataset, sample, unk_id)]
    if layout == "corpus":
        found.append(_random_pairs(dataset, sample))
    else:
        found += [_full_rows(dataset), _blank_rows(dataset), _absent_labels(dataset)]
    return [sentence for sentence in found if sentence]


def _broken_rows(dataset: Dataset) -> str:
    """Returns a sentence where broken rows were skipped, else ""."""
    count = dataset.manifest.arguments.get("left_out", {}).get("broken_rows", 0)
    if not count:
        return ""
    rows = "1 broken row was" if count == 1 else f"{count:,} broken rows were"
    return (
        f"{rows} skipped for {dataset.folder}; to see the first of them, build without"
        " broken_rows='skip' (--skip-broken-rows)"
    )


def _sample(dataset: Dataset) -> Gathered:
    """Returns rows from several spots of a dataset."""
    # Neighbours, since a remote dataset is read in blocks.
    last = max(0, len(dataset) - _ROWS_OF_A_SPOT)
    spots = np.linspace(0, last, _SAMPLED_SPOTS, dtype=np.int64)
    return dataset.gather(np.unique(spots[:, None] + np.arange(min(len(dataset), _ROWS_OF_A_SPOT))))


def _strange_text(dataset: Dataset, sample: Gathered, unk_id: int) -> str:
    """Returns a sentence where more than a hundredth of the tokens are [UNK], else ""."""
    share = np.mean(sample.tokens == unk_id)
    if share <= _MUCH_UNKNOWN:
        return ""
    return (
        f"{share:.1%} of the tokens in {dataset.folder} are [UNK]: its tokenizer was made for other"
        " text; use one for this language and script, or train one (tools.train_tokenizer)"
    )


def _random_pairs(dataset: Dataset, sample: Gathered) -> str:
    """Returns a sentence where so many second texts are random that most documents must have but
    one sentence, else "".
    """
    labels = sample.next_sentence
    if labels is None or len(labels) < _FEWEST_PAIRS or np.mean(labels) <= _MOSTLY_RANDOM:
        return ""
    return (
        f"{np.mean(labels):.0%} of the pairs in {dataset.folder} have a random second text, as most"
        " of its documents are a single sentence; give text with one sentence a line and a blank"
        " line between documents, or leave next_sentence out"
    )


def _full_rows(dataset: Dataset) -> str:
    """Returns a sentence where more than a hundredth of a dataset's texts have as many tokens as a
    row may have, so that they are likely to have been cut; else "".
    """
    limit = dataset.manifest.max_length
    full = int(np.count_nonzero(dataset.lengths == limit))
    if full <= _MUCH_CUT * len(dataset):
        return ""
    return (
        f"{full:,} of {len(dataset):,} rows of {dataset.folder} have max_length={limit} tokens: "
        "longer texts are cut there; raise max_length to keep more of them"
    )


def _blank_rows(dataset: Dataset) -> str:
    """Returns a sentence where rows have no words at all, else ""."""
    blank = np.flatnonzero(dataset.lengths <= _FRAME)
    if not len(blank):
        return ""
    return (
        f"{len(blank):,} of {len(dataset):,} rows of {dataset.folder} are blank (the first is row "
        f"{blank[0]}), and count like any other; leave them out of the text if nothing is to be "
        "learnt from them"
    )


def _absent_labels(dataset: Dataset) -> str:
    """Returns a sentence where classes have no row, as in the beginning of a sorted file; else
    "".
    """
    labels = dataset.manifest.labels
    if dataset.manifest.task != "classification":
        return ""
    absent, rows = set(range(len(labels))), min(len(dataset), _MOST_ROWS)
    for block in _blocks(rows):
        found = dataset.gather(block).labels
        assert found is not None, "a classification has labels"
        absent -= set(np.unique(found).tolist())
        if not absent:
            return ""
    of = f"{rows:,} rows" if rows == len(dataset) else f"the first {rows:,} rows"
    return (
        f"{of} of {dataset.folder} have no label {', '.join(labels[n] for n in sorted(absent))}; "
        "check the label column, and shuffle the text if it is sorted by label"
    )


def _blocks(rows: int) -> Iterator[np.ndarray]:
    for first in range(0, rows, _BLOCK_ROWS):
        yield np.arange(first, min(first + _BLOCK_ROWS, rows))
