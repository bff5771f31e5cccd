"""Rows of TFDS datasets prepared on disk as ArrayRecord or TFRecord, read without TensorFlow.

A name is `tfds:NAME:SPLIT`, `tfds:NAME/CONFIG:SPLIT`, or `tfds:FOLDER:SPLIT` with the path of a
prepared dataset (the folder of `dataset_info.json`). Names are looked up under TFDS_DATA_DIR, by
default `~/tensorflow_datasets`.
"""

import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.config import Source
from pd_jax.data.text import lines, tables
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import SourceError

PREFIX = "tfds:"

_INFO = "dataset_info.json"


class TfdsRows:
    """Rows `first <= row < last` of one split, `first` and `last` being given as shares of it."""

    def __init__(self, path: str, source: Source, *, part: tuple[float, float]):
        self._path, self._source, self._part = path, source, part
        self._origin = lines.Origin(path, unit="row ")
        self._features = _split(path).builder.info.features

    def items(self) -> Iterator[tables.Item]:
        """Yields the rows of the part."""
        split = _split(self._path)
        first, last = (round(share * split.rows) for share in self._part)
        rows = split.rows_from(first)
        for number, value in enumerate(itertools.islice(rows, last - first), start=first + 1):
            yield tables.Item(number, value)

    def row(self, item: tables.Item) -> tables.Row:
        """Returns an item's texts; class labels become their names."""
        value = {name: self._plain(name, content) for name, content in item.value.items()}
        return tables.named_row(value, self._source, self._origin, item.number)

    def _plain(self, name: str, content: Any) -> Any:
        """Returns a feature as TFDS's own reader or a parsed record gives it, as text or number."""
        if isinstance(content, list) and len(content) == 1:
            return self._plain(name, content[0])
        if name != self._source.label:
            return content
        label: Any = content.tolist() if isinstance(content, np.ndarray) else content
        names = getattr(self._features[name], "names", None)
        if names is None:
            return label
        # TFDS marks the label of an unlabelled row by -1.
        named = [names[one] if 0 <= one < len(names) else None for one in np.ravel(label).tolist()]
        return named if isinstance(label, list) else named[0]


def size(path: str) -> int:
    """Returns the approximate size of a split's rows in bytes; 0 if it has none."""
    split = _split(path)
    whole = split.builder.info.splits[_base(split.name)]
    share = split.rows / max(whole.num_examples, 1)
    return max(round(share * whole.num_bytes), split.rows)


def digest(path: str, of_file: Callable[[epath.Path], str] = files.digest_file) -> str:
    """Returns a digest of a split's files and of what describes them, using `of_file`."""
    split = _split(path)
    folder = epath.Path(split.builder.data_dir)
    held = [folder / _INFO, folder / "features.json"]
    held += sorted({epath.Path(part.filename) for part in split.parts})
    return files.digest_json({"files": {f.name: of_file(f) for f in held}, "split": split.name})


class _Split:
    """A split of a prepared dataset."""

    def __init__(self, builder: Any, name: str):
        self.builder, self.name = builder, name
        self.parts = builder.info.splits[name].file_instructions
        self.rows = builder.info.splits[name].num_examples

    def rows_from(self, first: int) -> Iterator[dict[str, Any]]:
        """Yields the rows from `first` on."""
        if self.builder.info.file_format.value == "array_record":
            source = self.builder.as_data_source(split=self.name)
            return (source[row] for row in range(first, self.rows))
        return (example.parse(frame.payload) for frame in self._frames(first))

    def _frames(self, first: int) -> Iterator[tfrecord.Framed]:
        """Yields the rows from `first` on, opening no file that ends before it.

        Raises:
          SourceError: where a file has fewer rows than the dataset's description states, by which
            files are skipped.
        """
        for part in self.parts:
            if first >= part.take:
                first -= part.take
                continue
            found, last = part.skip + first, part.skip + part.take
            for frame in itertools.islice(tfrecord.read_frames(part.filename), found, last):
                yield frame
                found += 1
            if found < last:
                raise SourceError(
                    f"{part.filename} has fewer rows than the {part.examples_in_shard} that"
                    f" {_INFO} states; prepare the dataset again"
                )
            first = 0


@functools.lru_cache(maxsize=64)
def _split(path: str) -> _Split:
    """Returns the split of that name.

    Raises:
      SourceError: where it is not on disk, or in a format that needs TensorFlow.
    """
    import tensorflow_datasets

    named = re.fullmatch(r"(.+):(\w+(?:\[.*\])?)", path.removeprefix(PREFIX))
    if named is None:
        raise SourceError(
            f"{path} names no split; write tfds:NAME:SPLIT, for example tfds:glue/sst2:train"
        )
    name, split = named.groups()
    builder = tensorflow_datasets.builder_from_directory(str(_folder(path, name)))
    kind = getattr(builder.info.file_format, "value", None)
    if kind not in ("array_record", "tfrecord"):
        raise SourceError(
            f"{path} was prepared as {kind}; prepare it with file_format='array_record'"
        )
    if _base(split) not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise SourceError(f"{path} has no split {split!r}; its splits are {known}")
    try:
        return _Split(builder, split)
    except (ValueError, AssertionError) as fault:
        raise SourceError(
            f"{path}: {split!r} is not a split ({fault}); write one such as train[:1000]"
        ) from None


def _base(split: str) -> str:
    """Returns `train` of `train[:1000]`."""
    return split.partition("[")[0]


def _folder(path: str, name: str) -> epath.Path:
    """Returns a prepared dataset's folder: the one named, or a name's newest version."""
    root = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    for folder in (epath.Path(name).expanduser(), root / name):
        if (folder / _INFO).exists():
            return folder
        if folder.is_dir():
            versions = [child for child in folder.iterdir() if (child / _INFO).exists()]
            if versions:
                return max(versions, key=_version)
            configs = [
                child
                for child in folder.iterdir()
                if any((held / _INFO).exists() for held in files.matching(child, "*"))
            ]
            if len(configs) == 1:
                return _folder(path, str(configs[0]))
            if configs:
                names = ", ".join(sorted(f"{name}/{child.name}" for child in configs))
                raise SourceError(
                    f"{path} does not name one of its configurations; they are {names}"
                )
    raise SourceError(
        f"{path} is not on disk: neither {name} nor {root / name} contains a prepared dataset;"
        " prepare it with tfds build --file_format=array_record, or set TFDS_DATA_DIR"
    )


def _version(folder: epath.Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.name))
