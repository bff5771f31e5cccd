"""GLUE's test sets, and answers to them as the server at gluebenchmark.com takes them.

A submission is a zip of eleven files, each with a header, an index from 0 in the order of the test
set, and a prediction in the server's words.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from pd_jax import files
from pd_jax.errors import WeightsError

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the zip, so that equal answers give equal bytes."""

_HIGHEST = 5.0
"""STS-B's similarities lie between 0 and this."""


@dataclasses.dataclass(frozen=True)
class TestSet:
    """One file of a submission, and the test set that it answers.

    `task` is the one whose model answers it, `path` lies below the folder of the unpacked zips,
    `text` and `pair` name columns. `answers` are the server's words for the labels, in the order of
    the released numbers, `names` what TFDS calls them; a task without is answered by numbers.
    """

    task: str
    path: str
    rows: int
    text: str
    pair: str | None = None
    answers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def predictions(
        self, logits: Float[np.ndarray, "rows outputs"], labels: Sequence[str]
    ) -> list[str]:
        """Returns the server's word for each row.

        Args:
          logits: of a model of this task, in the order of the test set.
          labels: the model's, in the order of its outputs; may be empty for STS-B.

        Raises:
          WeightsError: the model's labels or outputs are not this task's.
        """
        if not self.answers:
            if logits.shape[1] != 1:
                raise WeightsError(
                    f"{self.task} is answered by a number, but the model has {logits.shape[1]} "
                    "outputs; name a model that was trained for regression"
                )
            return [f"{value:.3f}" for value in np.clip(logits[:, 0], 0.0, _HIGHEST)]
        words = dict(zip(self.answers, self.answers, strict=True))
        words |= dict(zip(self.names, self.answers, strict=True)) if self.names else {}
        if len(labels) != len(self.answers) or {words.get(label) for label in labels} != set(
            self.answers
        ):
            known = " or ".join(", ".join(item) for item in (self.names, self.answers) if item)
            raise WeightsError(
                f"a model with the labels {', '.join(labels)} cannot answer {self.task}, whose "
                f"labels are {known}; train it with these"
            )
        return [words[labels[int(index)]] for index in logits.argmax(axis=1)]

    def filler(self) -> list[str]:
        """Returns a placeholder answer for every row: the first label, or 0."""
        return [self.answers[0] if self.answers else "0.000"] * self.rows


_BINARY = ("0", "1")
_ENTAILS = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

TEST_SETS: Mapping[str, TestSet] = {
    "CoLA.tsv": TestSet(
        "cola", "CoLA/test.tsv", 1_063, "sentence", None, _BINARY, ("unacceptable", "acceptable")
    ),
    "SST-2.tsv": TestSet(
        "sst2", "SST-2/test.tsv", 1_821, "sentence", None, _BINARY, ("negative", "positive")
    ),
    "MRPC.tsv": TestSet(
        "mrpc",
        "MRPC/test.tsv",
        1_725,
        "#1 String",
        "#2 String",
        _BINARY,
        ("not_equivalent", "equivalent"),
    ),
    "STS-B.tsv": TestSet("stsb", "STS-B/test.tsv", 1_379, "sentence1", "sentence2"),
    "QQP.tsv": TestSet(
        "qqp",
        "QQP/test.tsv",
        390_965,
        "question1",
        "question2",
        _BINARY,
        ("not_duplicate", "duplicate"),
    ),
    "MNLI-m.tsv": TestSet("mnli", "MNLI/test_matched.tsv", 9_796, "sentence1", "sentence2", _NLI),
    "MNLI-mm.tsv": TestSet(
        "mnli", "MNLI/test_mismatched.tsv", 9_847, "sentence1", "sentence2", _NLI
    ),
    "QNLI.tsv": TestSet("qnli", "QNLI/test.tsv", 5_463, "question", "sentence", _ENTAILS),
    "RTE.tsv": TestSet("rte", "RTE/test.tsv", 3_000, "sentence1", "sentence2", _ENTAILS),
    "WNLI.tsv": TestSet(
        "wnli",
        "WNLI/test.tsv",
        146,
        "sentence1",
        "sentence2",
        _BINARY,
        ("not_entailment", "entailment"),
    ),
    "AX.tsv": TestSet("mnli", "diagnostic/diagnostic.tsv", 1_104, "sentence1", "sentence2", _NLI),
}
"""File of a submission -> what it answers. The diagnostic set (AX) is answered by MNLI's model."""

TASKS = tuple(dict.fromkeys(test_set.task for test_set in TEST_SETS.values()))


def write_submission(path: epath.PathLike, answers: Mapping[str, Sequence[str]]) -> None:
    """Writes the zip that holds `answers`, the predictions of every file of TEST_SETS in order.

    Raises:
      ValueError: a file is missing, or has other than its test set's number of rows.
    """
    if set(answers) != set(TEST_SETS):
        raise ValueError(f"a submission is {sorted(TEST_SETS)}, not {sorted(answers)}")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, test_set in TEST_SETS.items():
            if len(answers[name]) != test_set.rows:
                raise ValueError(f"{name} needs {test_set.rows} rows, not {len(answers[name])}")
            lines = [f"{index}\t{answer}\n" for index, answer in enumerate(answers[name])]
            about = zipfile.ZipInfo(name, _EARLIEST)
            about.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(about, "".join(["index\tprediction\n", *lines]))
    files.write_bytes(path, content.getvalue())
