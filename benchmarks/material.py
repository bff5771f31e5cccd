"""The data benchmarks run on: random tokens of one length, or sentences at their own lengths."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from pd_jax import config as config_lib
from pd_jax.data.building.build import build_records
from pd_jax.data.logits.labelling import Teacher, label_dataset
from pd_jax.data.logits.logit_shards import Values
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.models import sizes
from pd_jax.models.sizes import BertConfig

LENGTH = 128
"""The length that stock scripts pad to, and the fixed one of pre-training."""
VOCABULARY = 30_522
FIRST_WORD = 1_000
"""The first id of BERT's vocabulary that is a word."""
PAD, CLS, SEP, MASK = 0, 101, 102, 103
LABELS = ("0", "1")
TEXTS = {
    "SST-2": {"path": "tasks/sst2/train.tsv", "label": "label"},
    "IMDb": {"path": "transfer/imdb_unsup.txt"},
}
"""Real texts: sentences of a labelled task, and of its transfer set (without labels)."""


def data_folder() -> pathlib.Path | None:
    """Returns the folder of the development data, or None if `PD_JAX_DATA` does not name one."""
    folder = pathlib.Path(os.environ.get("PD_JAX_DATA", os.path.join("..", "shared", "data")))
    return folder if (folder / "vocab" / "vocab.txt").exists() else None


def shape(size: str) -> BertConfig:
    """Returns the shape of a named size over BERT's vocabulary."""
    return sizes.bert_config(config_lib.Model(size=size), vocab_size=VOCABULARY)


def fixed_batch(rows: int, *, seed: int) -> dict[str, np.ndarray]:
    """Returns a feed's batch of full rows of random words, with labels."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(FIRST_WORD, VOCABULARY, (rows, LENGTH), dtype=np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return {
        "input_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "input_mask": np.ones_like(ids),
        "weight": np.ones(rows, np.float32),
        "label": generator.integers(0, len(LABELS), rows).astype(np.int32),
    }


def real_dataset(text: str, rows: int, *, folder: pathlib.Path, data: pathlib.Path) -> Dataset:
    """Returns the records of the first rows of a real text, built under `folder`."""
    columns = dict(TEXTS[text])
    labelled = "label" in columns
    source = config_lib.Source(**{**columns, "path": str(data / columns["path"]), "rows": rows})
    task = {"task": "classification", "labels": LABELS} if labelled else {}
    stage = config_lib.RecordsStage(
        source=source,
        tokenizer=str(data / "vocab" / "vocab.txt"),
        max_length=LENGTH,
        examples=config_lib.Rows(**task),
    )
    target = folder / text
    build_records(stage, load_tokenizer(stage.tokenizer), target, name=text, workers=1)
    return Dataset.open(target)


def write_random_logits(dataset: Dataset, folder: pathlib.Path, *, seed: int) -> np.ndarray:
    """Writes a logit store of random teacher outputs and returns them, row for row."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(dataset), len(LABELS))).astype(np.float32)

    def answers(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Values]]:
        yield rows, {"logits": logits[rows]}

    teacher = Teacher("0" * 32, "classification", LABELS, settings={})
    label_dataset(folder, dataset, teacher=teacher, answers=answers, title="random logits")
    return logits
