"""Small real datasets and stages for tests: 59 words, and a label that can be learnt."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax import config as config_lib
from pd_jax.data.building.build import build_records
from pd_jax.data.logits import labelling
from pd_jax.data.logits.logit_shards import Field, Values
from pd_jax.data.logits.store import LogitsManifest
from pd_jax.data.records import shards as shards_lib
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import Record
from pd_jax.data.tokenizers.tokenizer import load_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{number}" for number in range(59))
LABELS = ("few", "many")
_CLS, _SEP = 2, 3


def tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Returns a folder with a WordPiece vocabulary of 64 entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    return folder


def dataset(
    folder: pathlib.Path, *, rows: int, seed: int = 0, labelled: bool = True, shards: int = 2
) -> Dataset:
    """Returns a dataset whose label says whether words above the middle are in the majority."""
    made = load_tokenizer(tokenizer(folder / "tokenizer"))
    generator = np.random.default_rng(seed)
    infos = []
    for shard in range(shards):
        part = []
        for row in range(rows // shards):
            words = generator.integers(5, 64, generator.integers(3, 13))
            ids = np.concatenate([[_CLS], words, [_SEP]]).astype(np.int32)
            text = " ".join(map(str, words))
            identity = shards_lib.example_id(f"{seed} {shard} {row} {text}")
            label = int(np.mean(words > 34) > 0.5) if labelled else None
            part.append(Record(ids, None, identity, label=label))
        infos.append(
            shards_lib.write_shard(folder, folder.name, index=shard, of=shards, records=part)
        )
    task = {"task": "classification", "labels": LABELS} if labelled else {}
    shards_lib.finish(folder, infos, name=folder.name, tokenizer=made, max_length=16, **task)
    return Dataset.open(folder)


def text_dataset(folder: pathlib.Path, texts: list[tuple[str, ...]], *, shards: int = 3) -> Dataset:
    """Returns a transfer set built from a file of texts, or of pairs of texts, beside it."""
    header = ("text", "other")[: len(texts[0])]
    source = folder.with_name(f"{folder.name}.tsv")
    source.write_text("".join("\t".join(row) + "\n" for row in [header, *texts]))
    stage = config_lib.RecordsStage(
        source=config_lib.Source(path=str(source), pair="other" if len(header) > 1 else None),
        tokenizer="none",
        examples=config_lib.Rows(),
        max_length=16,
        shards=shards,
    )
    made = load_tokenizer(tokenizer(folder / "tokenizer"))
    build_records(stage, made, folder, name=folder.name, workers=1)
    return Dataset.open(folder)


def logit_store(
    folder: pathlib.Path,
    dataset: Dataset,
    values: np.ndarray | Values,
    *,
    labels: tuple[str, ...] = LABELS,
    task: str = "classification",
    teacher: str = "teacher",
    complete: bool = True,
    states: tuple[int, ...] = (),
) -> LogitsManifest:
    """Writes a store whose rows have these logits, or these fields, in the dataset's order."""
    held = {"logits": values} if isinstance(values, np.ndarray) else values
    more = [Field("states", held["states"].shape[1:])] if states else []
    return labelling.label_dataset(
        folder,
        dataset,
        teacher=labelling.Teacher(
            teacher,
            task,
            labels,
            complete=complete,
            more=tuple(more),
            about={"state_layers": list(states)},
        ),
        answers=lambda rows: [(rows, {name: array[rows] for name, array in held.items()})],
        title="labelling",
    )


def weights(init: Callable[..., Any], *inputs: Any, seed: int = 0) -> Any:
    """Returns weights at random with the shapes that `init(key, *inputs)` returns.

    They are drawn as BERT's first ones, but by NumPy: to compile `init`, or its every operation,
    takes seconds.
    """
    generator = np.random.default_rng(seed)

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("kernel", "embedding"):
            values = 0.02 * generator.normal(size=leaf.shape).clip(-2, 2)
        else:
            values = np.full(leaf.shape, {"scale": 1.0, "bias": 0.0}[name])
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map_with_path(drawn, jax.eval_shape(init, jax.random.key(0), *inputs))


def stage(data: pathlib.Path, /, **changes: Any) -> config_lib.TrainStage:
    """Returns a supervised stage of 12 steps on a dataset; `changes` replace whole fields."""
    fields: dict[str, Any] = {
        "model": {"size": "L2_H32", "heads": 2, "positions": 16},
        "objective": {"kind": "classify"},
        "data": {"records": str(data), "batch": 16, "lengths": (16,)},
        "length": {"steps": 12},
        "optimizer": {"learning_rate": 1e-3},
    }
    return config_lib.TrainStage(**{**fields, **changes})


def run_options(**changes: Any) -> config_lib.Run:
    """Returns how tests run: no TensorBoard, a line every 4 steps."""
    return config_lib.Run(**{"tensorboard": False, "log_steps": 4, **changes})
