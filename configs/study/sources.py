"""The studies' text: tasks, transfer sets and corpora, and what nothing may learn from."""

import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from configs import common

HELD_OUT_ROWS = 20_000
"""Transfer rows on which nothing is trained: every student's agreement and KL are taken there.

Of a small set they are half as many as are left to learn from.
"""

TASKS = {
    "sst2": {
        "labels": ("0", "1"),
        "rows": {"text": "text"},
        "folder": "sst2",
        "sets": ("dev", "test"),
        "judged": ("test",),
        "transfer": "imdb",
        "reference": "SST-2",
    },
    "mnli": {
        "labels": ("entailment", "neutral", "contradiction"),
        "rows": {"text": "text_a", "pair": "text_b"},
        "folder": "mnli_subset",
        "sets": ("dev",),
        "judged": ("dev",),
        "transfer": "captions",
        "reference": "MNLI",
    },
}


class TransferSet(NamedTuple):
    """Unlabelled text to distil on.

    `rows` are what no study exceeds: a little fewer than remain without the rows of the tasks'
    evaluation sets and without the held-out ones. `sentences`, of a set that is pre-trained on, is
    how many of its rows a document has.
    """

    path: str
    rows: int
    columns: Mapping[str, str] = MappingProxyType({})
    sentences: float | None = None

    @property
    def held_out(self) -> int:
        """How many of its first rows are held out where it is a task's own transfer set."""
        return min(HELD_OUT_ROWS, self.rows // 2)


TRANSFER = {
    "imdb": TransferSet("transfer/imdb_unsup.txt", 560_000, sentences=11.834),
    "electronics": TransferSet("transfer/amazon_electronics_kitchen_unlabelled.txt", 74_000),
    "news": TransferSet("transfer/reuters_news_unlabelled.txt", 101_000),
    "captions": TransferSet(
        "transfer/nli_pairs_unlabelled.tsv", 49_000, {"text": "text_a", "pair": "text_b"}
    ),
}
GENERAL = ("transfer/imdb_unsup.txt", "corpus/wiki.txt", "corpus/novels.txt")
"""What every model is pre-trained on unless a study changes it."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where text is read from; in a smoke run, a few rows of each.

    `transfer_rows` are the rows of a transfer set that a study wants to learn from.
    """

    smoke: bool
    transfer_rows: int

    def labelled(self, task: str, name: str, *, label: bool = True) -> dict:
        """Returns a labelled set of a task: train, dev or test."""
        columns = {**TASKS[task]["rows"], **({"label": "label"} if label else {})}
        return self._file(f"tasks/{TASKS[task]['folder']}/{name}.tsv", **columns)

    def transfer(self, name: str) -> dict:
        """Returns a transfer set and the held-out rows, which are its first."""
        found = TRANSFER[name]
        return self._file(found.path, **found.columns, rows=self._read_rows(found))

    def held_out(self, task: str) -> dict:
        """Returns the held-out transfer rows: the first of a task's own transfer set."""
        found = TRANSFER[TASKS[task]["transfer"]]
        rows = 100 if self.smoke else found.held_out
        return {**self._file(found.path, **found.columns), "rows": rows}

    def lacks(self, task: str) -> bool:
        """Returns whether the data folder exists, but lacks what `kept_apart` reads for a task."""
        there = os.path.isdir(common.data_folder())
        return there and not all(os.path.exists(one["path"]) for one in self.kept_apart(task))

    def kept_apart(self, *tasks: str) -> tuple[dict, ...]:
        """Returns what no training text for these tasks may contain."""
        sets = (
            self.labelled(task, name, label=False) for task in tasks for name in TASKS[task]["sets"]
        )
        return (*map(self.held_out, tasks), *sets)

    def corpus(self, name: str) -> dict | tuple[dict, ...]:
        """Returns text to pre-train on: `general` are reviews, Wikipedia and novels, others are the
        documents whose sentences are a transfer set.
        """
        if name != "general":
            found = TRANSFER[name]
            documents = round(self._read_rows(found) / found.sentences) if found.sentences else None
            return self._file(found.path, "documents", documents=documents, **found.columns)
        return tuple(self._file(path, "documents", few=3) for path in GENERAL)

    def _read_rows(self, found: TransferSet) -> int:
        """Returns how many rows to read for a transfer set.

        Held-out rows, wherever they recur, and rows of evaluation sets are left out of it.
        """
        return (self.transfer_rows + found.held_out) * 30 // 29

    def _file(self, path: str, unit: str = "rows", *, few: int = 300, **columns) -> dict:
        """Returns a file as a source; in a smoke run, a few of its rows or documents."""
        found = {"path": os.path.join(common.data_folder(), *path.split("/")), **columns}
        if self.smoke:
            found[unit] = min(found.get(unit) or few, few)
        return {name: value for name, value in found.items() if value is not None}
