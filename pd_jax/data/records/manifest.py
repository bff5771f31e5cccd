"""The manifest of a dataset folder: `manifest.json`, which is written last.

A manifest carries a digest of its own content, so that one edited by hand is refused, and a
fingerprint of what the dataset holds (rows, tokens, labels, vocabulary), which does not depend on
names, paths or times.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, Self, TypeVar

import pydantic
from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.errors import ConfigError, PdError, RecordsError

FILE = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"

_FORMAT = "pd_jax records 1"


Count = Annotated[int, pydantic.Field(ge=0, lt=1 << 53)]

_Kind = TypeVar("_Kind")


class HasVocabulary(Protocol):
    """The part of a tokenizer that a manifest keeps."""

    fingerprint: str
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    """The vocabulary a dataset was made with."""

    fingerprint: str
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @classmethod
    def of(cls, tokenizer: HasVocabulary) -> Self:
        """Returns what a manifest keeps of `tokenizer`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(tokenizer, name) for name in names})


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One complete shard: its file and index, and what is in them."""

    file: str
    rows: Count
    tokens: Count
    longest: Count
    bytes: Count
    digest: str
    index_digest: str
    features: tuple[str, ...]
    """Names of the features that its rows have; empty for a shard without rows."""

    @property
    def index_file(self) -> str:
        """Name of the offset index beside the shard."""
        return f"{self.file.removesuffix('.tfrecord')}.index.npy"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A complete dataset. `sources` and `arguments` say how it was made; nothing depends on it."""

    name: str
    rows: Count
    tokens: Count
    max_length: Count
    task: config_lib.Task | None
    labels: tuple[str, ...]
    pairs: bool
    tokenizer: TokenizerInfo
    shards: tuple[ShardInfo, ...]
    sources: Mapping[str, str]
    arguments: Mapping[str, Any]
    fingerprint: str

    def holds(self, feature: str) -> bool:
        """Returns whether the rows have `feature`."""
        return any(feature in shard.features for shard in self.shards)


def shard_file(name: str, index: int, of: int) -> str:
    """Returns the file name of shard `index` of `of`."""
    return f"{name}-{index:05d}-of-{of:05d}.tfrecord"


def fingerprint(manifest: Manifest) -> str:
    """Returns the digest of what the dataset holds."""
    return files.digest_json(
        {
            "rows": manifest.rows,
            "shards": [shard.digest for shard in manifest.shards],
            "tokenizer": manifest.tokenizer.fingerprint,
            "task": manifest.task,
            "labels": manifest.labels,
        }
    )


def write(folder: epath.PathLike, manifest: Manifest) -> None:
    """Writes `manifest.json` into `folder`: from then on the dataset is complete."""
    write_sealed(epath.Path(folder) / FILE, {"format": _FORMAT, **dataclasses.asdict(manifest)})


def read(folder: epath.PathLike) -> Manifest:
    """Returns the manifest of a dataset folder.

    Raises:
      RecordsError: where it is missing, edited, or of another format.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        inside = epath.Path(folder) / "records"
        remedy = f"name {inside}" if (inside / FILE).exists() else "run the build again"
        raise RecordsError(
            f"{path} does not exist: {folder} is not a dataset, or its build has not finished;"
            f" {remedy}"
        )
    value = read_sealed(path, _FORMAT, RecordsError)
    manifest = checked(Manifest, value, path, RecordsError)
    check_names(manifest.name, [shard.file for shard in manifest.shards], path, RecordsError)
    if manifest.fingerprint != fingerprint(manifest) or manifest.rows != sum(
        s.rows for s in manifest.shards
    ):
        raise RecordsError(
            f"{path} contradicts itself: its fingerprint does not match; build the dataset again"
        )
    return manifest


def format_of(path: epath.Path) -> str:
    """Returns what a manifest is of, `pd_jax records 1`; an empty text for another file."""
    if not path.exists():
        return ""
    try:
        value = files.read_json(path, RecordsError)
    except RecordsError:
        return ""
    found = str(value.get("format")) if isinstance(value, dict) else ""
    return found if found.startswith("pd_jax ") else ""


def check_replaceable(folder: epath.PathLike, kind: str, error: type[PdError]) -> None:
    """Raises `error` where a folder's manifest is not of a `kind` (`pd_jax records`), and would be
    lost if one of that kind was made there. A damaged one, which is no JSON, may be.
    """
    path = epath.Path(folder) / FILE
    try:
        held = path.exists() and files.read_json(path, RecordsError)
    except RecordsError:
        return
    if held and not format_of(path).startswith(kind):
        raise error(f"{path} is of something else, which would be lost; choose another folder")


def write_sealed(path: epath.PathLike, value: Mapping[str, Any]) -> None:
    """Writes a JSON object together with a digest of itself."""
    files.write_json(path, {**value, "digest": files.digest_json(value)})


def read_sealed(path: epath.PathLike, expected: str, error: type[PdError]) -> dict[str, Any]:
    """Returns what `write_sealed` wrote, less `format` and `digest`; raises `error` if edited."""
    value = files.read_json(path, error)
    if not isinstance(value, dict) or value.get("format") != expected:
        raise error(f"{path} is not in the format {expected!r}; rebuild the folder that holds it")
    digest = value.pop("digest", None)
    try:
        fits = digest == files.digest_json(value)
    except ValueError:  # numbers and characters that we never write
        fits = False
    if not fits:
        raise error(f"{path} was changed after it was written; restore it, or rebuild its folder")
    return {name: item for name, item in value.items() if name != "format"}


def checked(kind: type[_Kind], value: Any, path: epath.PathLike, error: type[PdError]) -> _Kind:
    """Returns a JSON object as the dataclass `kind`; raises `error` naming the first bad key."""
    try:
        found = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        raise error(f"{path}: {key} is not valid ({first['msg']}); rebuild its folder") from None
    return found


def check_name(name: str) -> None:
    """Raises ConfigError unless the files of a dataset's shards can begin with `name`."""
    if not _plain(name):
        raise ConfigError(
            f"a dataset cannot have the name {name!r}, since its file names begin with it; choose"
            " one without slashes and unprintable characters that does not begin with a dot"
        )


def check_names(
    name: str, shards: Sequence[str], path: epath.PathLike, error: type[PdError]
) -> None:
    """Raises `error` unless the shard files are named as those of dataset `name`."""
    expected = [shard_file(name, index, len(shards)) for index in range(len(shards))]
    if not _plain(name) or list(shards) != expected:
        raise error(f"{path} lists shard files with unexpected names; rebuild its folder")


def _plain(name: str) -> bool:
    return name.isprintable() and not {"/", "\\"} & set(name) and not name.startswith(".")


@functools.cache
def _adapter(kind: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)
