"""The paper's own numbers, for the grey marks next to ours.

Turc et al. 2019 (arXiv:1908.08962 v2). Only values that stood in print (error: half of the last
digit) or were digitised from a figure (error: 0.2 points) are here; nothing is from memory,
nothing computed. Scores are percent: accuracy, but for MRPC and QQP in Table 3, where F1 and
accuracy stand side by side. Averages are left out: they are arithmetic.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

PRINTED_ERROR = 0.05
DIGITISED_ERROR = 0.2

BASIC, DISTILLATION, PF, PD, PD_F = "basic", "distillation", "PF", "PD", "PD-F"
TEACHER = "teacher"

_ALIASES = {
    "basic": BASIC,
    "basic training": BASIC,
    "distillation": DISTILLATION,
    "distil": DISTILLATION,
    "pf": PF,
    "pd": PD,
    "pd-f": PD_F,
    "pdf": PD_F,
}


@dataclasses.dataclass(frozen=True)
class PaperValue:
    """One score of the paper: `value` percent, give or take `error`.

    `axis` names what `position` counts: a model size, rows of the transfer set, or the similarity
    of transfer and labelled set.
    """

    source: str
    task: str
    metric: str
    method: str
    axis: str
    position: str | int | float
    value: float
    error: float


_SHORT_NAME = re.compile(r"\(([^()]+)\)\s*$")


def canonical_method(label: str) -> str | None:
    """Returns the paper's name of the method in a row's label, or None: `PF`, `Any words (PF)`."""
    short = _SHORT_NAME.search(label)
    return _ALIASES.get((short[1] if short else label).strip().lower())


def find(
    *, source: str | None = None, task: str | None = None, method: str | None = None
) -> tuple[PaperValue, ...]:
    """Returns the values that fit every condition given, in the paper's order."""
    return tuple(
        value
        for value in values()
        if (source is None or value.source == source)
        and (task is None or value.task == task)
        and (method is None or value.method == method)
    )


def method_value(*, task: str, label: str, size: str) -> PaperValue | None:
    """Returns the paper's accuracy for a row: its method by label, its model by size (`L4_H256`).

    SST-2 comes from the figure over all 24 sizes, MNLI from Figure 5; other tasks were not read
    from a figure by size.
    """
    method = canonical_method(label)
    source = {"SST-2": FIGURE_SIZES, "MNLI": FIGURE_INIT}.get(task)
    if method is None or source is None:
        return None
    return next(
        (value for value in find(source=source, method=method) if value.position == size), None
    )


# ---- Table 3: students L6_H768, teacher L12_H768 (printed) -------------------------------------

TABLE_TEST = "Table 3, test"
TABLE_DEV = "Table 3, dev"

_TABLE_COLUMNS = (
    ("SST-2", "accuracy"),
    ("MRPC", "f1"),
    ("MRPC", "accuracy"),
    ("QQP", "f1"),
    ("QQP", "accuracy"),
    ("MNLI-m", "accuracy"),
    ("MNLI-mm", "accuracy"),
    ("QNLI", "accuracy"),
    ("RTE", "accuracy"),
)
_TABLES = {
    TABLE_TEST: {
        "truncated": (90.7, 85.9, 80.2, 69.2, 88.2, 80.4, 79.7, 86.7, 63.6),
        PF: (92.5, 86.8, 81.8, 70.1, 88.5, 81.8, 81.1, 87.9, 64.2),
        PD: (91.8, 86.8, 81.7, 70.4, 88.9, 82.8, 82.2, 88.9, 65.3),
        "patient": (92.0, 85.0, 79.9, 70.7, 88.9, 81.5, 81.0, 89.0, 65.5),
    },
    TABLE_DEV: {
        PF: (91.1, 87.9, 82.5, 86.6, 90.0, 81.1, 81.7, 87.8, 63.0),
        PD: (91.1, 89.4, 84.9, 87.4, 90.7, 82.5, 83.4, 89.4, 66.7),
        "language-model distillation": (92.7, 88.3, 82.4, 87.7, 90.6, 81.6, 81.1, 85.5, 60.0),
    },
}


# ---- SST-2 over 24 sizes (digitised); layers 2, 4, 6, 8, 10, 12 along a row --------------------

FIGURE_SIZES = "SST-2 by depth and width"

_LAYERS = (2, 4, 6, 8, 10, 12)
_SIZES = {
    PD: {
        128: (85.6, 89.0, 90.8, 91.2, 90.7, 91.2),
        256: (88.5, 92.0, 91.2, 92.1, 92.5, 92.5),
        512: (90.4, 92.0, 92.9, 92.5, 92.8, 93.0),
        768: (91.7, 92.1, 93.2, 93.2, 93.7, 93.2),
    },
    PF: {
        128: (83.1, 82.9, 84.9, 84.7, 84.9, 85.6),
        256: (83.7, 85.9, 87.5, 87.6, 88.3, 88.6),
        512: (86.1, 88.4, 89.5, 89.6, 89.4, 89.8),
        768: (86.9, 89.6, 90.8, 90.8, 91.2, 91.3),
    },
    DISTILLATION: {
        128: (83.3, 83.9, 83.3, 84.0, 82.6, 83.3),
        256: (83.0, 83.4, 83.7, 83.9, 84.1, 84.6),
        512: (83.9, 84.1, 84.3, 84.3, 84.8, 85.0),
        768: (84.5, 85.2, 85.2, 85.6, 84.8, 85.3),
    },
    BASIC: {
        128: (81.7, 81.9, 81.9, 81.0, 81.2, 81.3),
        256: (81.3, 81.8, 81.7, 80.9, 81.6, 81.9),
        512: (81.4, 81.3, 81.6, 81.1, 81.4, 81.3),
        768: (81.4, 81.4, 81.7, 81.5, 81.8, 81.9),
    },
}


# ---- figures over five sizes, over transfer rows, over similarity (digitised) ------------------

FIGURE_INIT = "Figure 5"
FIGURE_ROWS = "Figure 8"
FIGURE_SIMILARITY = "Figure 9"
FIGURE_SAME_DATA = "Figure 10"

_FIVE = ("L2_H128", "L4_H256", "L4_H512", "L8_H512", "L12_H768")
_INIT = {
    PD: (72.2, 78.5, 79.8, 82.0, 83.9),
    "PD, truncated": (66.3, 76.9, 77.6, 81.2, 83.9),
    "PD, word embeddings": (61.1, 68.6, 74.0, 74.6, 74.7),
    DISTILLATION: (60.7, 66.1, 69.2, 70.0, 70.3),
}
_SAME_DATA = {
    PD: (64.0, 74.6, 74.5, 78.1, 78.7),
    PF: (61.3, 72.6, 72.5, 76.0, 76.7),
    DISTILLATION: (60.7, 66.0, 69.2, 70.0, 70.3),
}
_TRANSFER_ROWS = (50_000, 100_000, 1_000_000, 3_000_000, 5_000_000, 8_000_000)
_BY_ROWS = {
    "PD, L4_H256": (83.2, 84.1, 86.7, 87.6, 88.0, 88.0),
    "distillation, L4_H256": (78.9, 81.4, 83.8, 84.4, 84.6, 84.8),
    "distillation, L12_H768": (80.9, 82.9, 84.5, 86.6, 86.8, 87.7),
}
_SIMILARITIES = (0.43, 0.52, 0.76, 1.0)
_BY_SIMILARITY = {
    PD_F: (84.8, 86.6, 87.0, 87.0),
    PD: (82.5, 86.3, 86.7, 87.2),
    DISTILLATION: (78.9, 81.6, 83.6, 84.1),
}
_LINES = (
    (FIGURE_SIZES, "SST-2", TEACHER, "not stated", 94.0),
    (FIGURE_ROWS, "Book Reviews", TEACHER, "L24_H1024", 88.0),
    (FIGURE_ROWS, "Book Reviews", BASIC, "L4_H256", 80.6),
    (FIGURE_SIMILARITY, "Book Reviews", TEACHER, "L24_H1024", 88.0),
    (FIGURE_SIMILARITY, "Book Reviews", PF, "L4_H256", 82.9),
    (FIGURE_SIMILARITY, "Book Reviews", BASIC, "L4_H256", 80.6),
)
"""Horizontal lines of the figures: one score whatever the figure's axis says."""


def _figure(
    source: str, task: str, axis: str, positions: tuple, rows: dict[str, tuple[float, ...]]
) -> Iterator[PaperValue]:
    for method, scores in rows.items():
        for position, score in zip(positions, scores, strict=True):
            yield PaperValue(
                source, task, "accuracy", method, axis, position, score, DIGITISED_ERROR
            )


@functools.cache
def values() -> tuple[PaperValue, ...]:
    """Returns every value, in the paper's order."""
    return tuple(_values())


def _values() -> Iterator[PaperValue]:
    for source, rows in _TABLES.items():
        for method, scores in rows.items():
            for (task, metric), score in zip(_TABLE_COLUMNS, scores, strict=True):
                yield PaperValue(
                    source, task, metric, method, "size", "L6_H768", score, PRINTED_ERROR
                )
    for method, widths in _SIZES.items():
        for hidden, scores in widths.items():
            sizes = tuple(f"L{layers}_H{hidden}" for layers in _LAYERS)
            yield from _figure(FIGURE_SIZES, "SST-2", "size", sizes, {method: scores})
    yield from _figure(FIGURE_INIT, "MNLI", "size", _FIVE, _INIT)
    yield from _figure(FIGURE_ROWS, "Book Reviews", "transfer rows", _TRANSFER_ROWS, _BY_ROWS)
    yield from _figure(
        FIGURE_SIMILARITY, "Book Reviews", "similarity", _SIMILARITIES, _BY_SIMILARITY
    )
    yield from _figure(FIGURE_SAME_DATA, "MNLI", "size", _FIVE, _SAME_DATA)
    for source, task, method, size, score in _LINES:
        yield PaperValue(source, task, "accuracy", method, "size", size, score, DIGITISED_ERROR)
