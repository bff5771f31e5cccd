"""A classifier and real sentences, for the peers of `benchmarks.label` and `benchmarks.predict`."""

import dataclasses
import pathlib
from collections.abc import Iterator

from benchmarks import material, ours
from pd_jax import config as config_lib
from pd_jax.data.text import corpora
from pd_jax.data.text.tables import Row
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.models.weights import hf
from pd_jax.training import rng

BATCH = 32
ROWS = 64 * BATCH
STOCK_SHARE = 4
"""Stock does only this share of the rows that the others do."""
SIZES = ("Tiny", "Mini", "Small")


@dataclasses.dataclass(frozen=True)
class Work:
    """Sentences of a text, and the folder of the model that labels them."""

    text: str
    size: str
    model: str
    records: str


def write_model(folder: pathlib.Path, size: str, *, data: pathlib.Path) -> str:
    """Writes a classifier of random weights with BERT's tokenizer; returns its folder."""
    objective = ours.make_objective("fine-tune", material.shape(size))
    tokenizer = load_tokenizer(str(data / "vocab" / "vocab.txt"))
    params = objective.init(rng.root_key(0))
    target = folder / size
    hf.save(
        target,
        params,
        objective.config,
        labels=material.LABELS,
        task="classification",
        add=tokenizer.save,
    )
    return str(target)


def sentences(name: str, count: int) -> list[Row]:
    """Returns the first sentences of a real text.

    Raises:
      ValueError: the text has fewer.
    """
    data = material.data_folder()
    assert data is not None, "cases are made only if there is data"
    columns = material.TEXTS[name]
    source = config_lib.Source(**{**columns, "path": str(data / columns["path"]), "rows": count})
    found = list(corpora.rows(source))
    if len(found) < count:
        raise ValueError(
            f"{source.path} has {len(found)} of {count} sentences; ask for fewer repetitions"
        )
    return found


def works(texts: tuple[str, ...], sizes: list[str], folder: pathlib.Path) -> Iterator[Work]:
    """Yields what there is to label; nothing if PD_JAX_DATA does not name any data."""
    data = material.data_folder()
    if data is None:
        print("there is no development data; set PD_JAX_DATA to measure on real sentences")
        return
    for name in texts:
        dataset = material.real_dataset(name, ROWS, folder=folder, data=data)
        for size in sizes:
            model = write_model(folder / "models", size, data=data)
            yield Work(name, size, model, str(dataset.folder))
