"""A small dataset on disk, for every test that reads one."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pd_jax.data.records import dataset
from pd_jax.data.records import shards as shards_lib


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """As much of a tokenizer as a manifest keeps."""

    fingerprint: str = "vocabulary"
    vocab_size: int = 30522
    pad_id: int = 0
    unk_id: int = 100
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103


def make_record(number: int, length: int, **changes: object) -> shards_lib.Record:
    """Returns a record whose tokens all say its number (1000 + number), between [CLS] and [SEP]."""
    ids = np.full(length, 1000 + number, np.int32)
    ids[0], ids[-1] = 101, 102
    values = {"segment_ids": None, "example_id": shards_lib.example_id(f"row {number}")} | changes
    return shards_lib.Record(input_ids=ids, **values)


@pytest.fixture
def make_dataset(tmp_path) -> Callable[..., dataset.Dataset]:
    """Returns a function that writes records, cut into shards of these sizes, and opens them."""

    def make(
        rows: Sequence[shards_lib.Record],
        name: str = "set",
        shards: Sequence[int] = (),
        tokenizer: Vocabulary | None = None,
        **arguments: object,
    ) -> dataset.Dataset:
        folder = tmp_path / name
        sizes = shards or (len(rows),)
        ends = np.cumsum(sizes)
        assert ends[-1] == len(rows)
        written = [
            shards_lib.write_shard(
                folder, name, index=index, of=len(sizes), records=rows[end - size : end]
            )
            for index, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]
        shards_lib.finish(
            folder,
            written,
            name=name,
            tokenizer=tokenizer or Vocabulary(),
            max_length=512,
            **arguments,
        )
        return dataset.Dataset.open(folder)

    return make


@pytest.fixture
def record() -> Callable[..., shards_lib.Record]:
    """Returns `make_record`."""
    return make_record


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Returns what a manifest keeps of BERT's tokenizer."""
    return Vocabulary()
