"""The studies' text: tasks, transfer sets and corpora of the development data, and what of them
nothing may learn from.
"""

import dataclasses
import os

from configs import common

TRANSFER_ROWS = 38_000
"""Rows of a transfer set where a study does not vary them: the default steps see each once."""
HELD_OUT_ROWS = 20_000
"""Transfer rows on which nothing is trained: every student's agreement and KL is taken there."""

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
TRANSFER = {
    # Name: file, columns, and so many of its documents as hold the sentences of a transfer set.
    "imdb": ("transfer/imdb_unsup.txt", {}, 5_070),
    "electronics": ("transfer/amazon_electronics_kitchen_unlabelled.txt", {}, None),
    "news": ("transfer/reuters_news_unlabelled.txt", {}, None),
    "captions": (
        "transfer/nli_pairs_unlabelled.tsv",
        {"text": "text_a", "pair": "text_b"},
        None,
    ),
}
GENERAL = ("transfer/imdb_unsup.txt", "corpus/wiki.txt", "corpus/novels.txt")
"""What every model is pre-trained on where a study does not say otherwise."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where text is read from; in a smoke run, a few rows of each."""

    smoke: bool

    def labelled(self, task: str, name: str, *, label: bool = True) -> dict:
        """Returns a labelled set of a task: train, dev or test."""
        columns = {**TASKS[task]["rows"], **({"label": "label"} if label else {})}
        return self._file(f"tasks/{TASKS[task]['folder']}/{name}.tsv", **columns)

    def transfer(self, name: str) -> dict:
        """Returns a transfer set and the held-out rows, which are its first."""
        path, columns, _ = TRANSFER[name]
        # Some are left out: those held out, and those of the evaluation sets.
        return self._file(path, **columns, rows=TRANSFER_ROWS + HELD_OUT_ROWS + 2_000)

    def held_out(self, task: str) -> dict:
        """Returns the held-out transfer rows: the first of a task's own transfer set."""
        path, columns, _ = TRANSFER[TASKS[task]["transfer"]]
        rows = 100 if self.smoke else HELD_OUT_ROWS
        return {**self._file(path, **columns), "rows": rows}

    def kept_apart(self, *tasks: str) -> tuple[dict, ...]:
        """Returns what no text to learn from may hold where it serves these tasks."""
        sets = (
            self.labelled(task, name, label=False) for task in tasks for name in TASKS[task]["sets"]
        )
        return (*map(self.held_out, tasks), *sets)

    def corpus(self, name: str) -> dict | tuple[dict, ...]:
        """Returns text to pre-train on: `general` are reviews, Wikipedia and novels, others are the
        documents of a transfer set.
        """
        if name != "general":
            path, columns, documents = TRANSFER[name]
            return self._file(path, **columns, rows=documents)
        # Rows of running text are documents, of which a few are much.
        limit = {"rows": 3} if self.smoke else {}
        return tuple({**self._file(path), **limit} for path in GENERAL)

    def _file(self, path: str, **columns) -> dict:
        found = {"path": os.path.join(common.data_folder(), *path.split("/")), **columns}
        if self.smoke:
            found["rows"] = min(found.get("rows") or 300, 300)
        return {name: value for name, value in found.items() if value is not None}
