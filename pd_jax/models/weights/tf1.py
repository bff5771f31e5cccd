"""TF1 checkpoints of google-research/bert, read without tensorflow.

The `.index` file is an immutable sorted table as LevelDB's: blocks of prefix-compressed entries,
each block followed by its kind and masked CRC32C, and a footer that says where the block of blocks
lies. Its values are two small protobufs (BundleHeaderProto, BundleEntryProto), which say at which
bytes of `.data-?????-of-?????` a tensor lies. All checksums are checked.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.data.wire import tfrecord
from pd_jax.errors import WeightsError
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, hf_config, layout

CONFIG_FILE = "bert_config.json"
_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_UNCOMPRESSED = 0
_FLOAT32 = 1
_SLOTS = ("/adam_m", "/adam_v", "/Adam", "/Adam_1", "/LAMB", "/LAMB_1")
_HEADS = {"cls/predictions/": "mlm", "cls/seq_relationship/": "nsp"}
_COUNTERS = ("global_step", "beta1_power", "beta2_power")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `size` bytes from `offset` of data file `shard`, with masked CRC32C."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int


@dataclasses.dataclass(frozen=True)
class Index:
    """The content of an `.index` file: the number of data files, and the tensors sorted by name."""

    shards: int
    entries: Mapping[str, Entry]


def load(
    path: epath.PathLike, *, gelu: Literal["tanh", "exact"] = "tanh"
) -> tuple[hf.SavedModel, tuple[str, ...]]:
    """Returns the model of a checkpoint, and the optimiser's tensors in it, which are not read.

    Args:
      path: the checkpoint (`.../bert_model.ckpt`, with or without `.index`), or the folder of an
        unpacked release; `bert_config.json` lies beside it.
      gelu: what "gelu" means. google-research/bert's modeling.py computes the tanh approximation;
        the ports of its checkpoints on Hugging Face compute it exactly.

    Raises:
      WeightsError: a file is missing or damaged, or a tensor is missing, unknown or misshapen.
    """
    prefix = _prefix(epath.Path(path))
    where = prefix.parent / CONFIG_FILE
    config = hf_config.shape_from(files.read_object(where, WeightsError), where=where)
    config = dataclasses.replace(config, gelu=gelu)
    index = read_index(f"{prefix}.index")
    left = tuple(name for name in index.entries if name.endswith(_SLOTS) or name in _COUNTERS)
    entries = {name: entry for name, entry in index.entries.items() if name not in left}
    wanted = tensors_of(
        config, {name: entry.shape for name, entry in entries.items()}, where=prefix
    )
    flat = {}
    for tensor in wanted:
        value = _read(prefix, index.shards, tensor.tf1, entries[tensor.tf1])
        flat[tensor.path] = np.ascontiguousarray(value.T if tensor.tf1_transposed else value)
    params = layout.nest(flat)
    fingerprint = hf.fingerprint(params, config, labels=(), task=None)
    return hf.SavedModel(config, params, (), None, fingerprint), left


def tensors_of(
    config: BertConfig, shapes: Mapping[str, tuple[int, ...]], *, where: object
) -> list[layout.Tensor]:
    """Returns the tensors of a checkpoint; raises WeightsError unless it has exactly a BERT's."""
    heads = {"pooler"}
    for part, head in _HEADS.items():
        heads |= {head} if any(name.startswith(part) for name in shapes) else set()
    heads |= {"classifier"} if "output_bias" in shapes else set()
    outputs = shapes["output_bias"][0] if "classifier" in heads else 0
    wanted = layout.tensors(config, heads, outputs=outputs)
    layout.check(shapes, {tensor.tf1: tensor.tf1_shape() for tensor in wanted}, where=where)
    return wanted


def read_index(path: epath.PathLike) -> Index:
    """Returns the table of an `.index` file; raises WeightsError where it is missing or damaged."""
    path = epath.Path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; name a checkpoint as .../bert_model.ckpt")
    content = path.read_bytes()
    try:
        footer = content[-_FOOTER_BYTES:]
        if struct.unpack_from("<Q", footer, _FOOTER_BYTES - 8)[0] != _MAGIC:
            raise ValueError("it does not end as a table of tensors")
        position = _skip_handle(footer, 0)
        table = dict(_entries(content, footer, position))
        header = _message(table.pop(b""))
        entries = {name.decode(): _entry(value) for name, value in table.items()}
        return Index(shards=_integer(header, 1), entries=entries)
    except (ValueError, IndexError, KeyError, struct.error) as fault:
        raise WeightsError(f"{path} is damaged ({fault}); download the checkpoint again") from None


def _prefix(path: epath.Path) -> epath.Path:
    """Returns the checkpoint's path without `.index`, found in a folder where one is given."""
    if path.is_dir():
        found = files.matching(path, "*.index")
        if len(found) != 1:
            names = ", ".join(item.name for item in found) or "none"
            raise WeightsError(f"{path} must have one *.index file, but has {names}; name the file")
        path = found[0]
    return path.parent / path.name.removesuffix(".index")


def _read(prefix: epath.Path, shards: int, name: str, entry: Entry) -> np.ndarray:
    """Returns one tensor, its bytes checked."""
    path = prefix.parent / f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}"
    if entry.dtype != _FLOAT32:
        raise WeightsError(f"{prefix} has {name} as TensorFlow type {entry.dtype}, not as float32")
    if not path.exists():
        raise WeightsError(f"{path} does not exist; download the complete checkpoint")
    with path.open("rb") as stream:
        stream.seek(entry.offset)
        content = stream.read(entry.size)
    shape_bytes = 4 * int(np.prod(entry.shape, dtype=np.int64))
    if len(content) != entry.size or entry.size != shape_bytes:
        raise WeightsError(f"{path} ends before {name} does; download the checkpoint again")
    if _masked(content) != entry.crc32c:
        raise WeightsError(f"{path} is damaged in {name} (its CRC32C differs); download it again")
    value = np.frombuffer(content, "<f4").reshape(entry.shape)
    layout.check_finite(value, name, where=path)
    return value


# ---- the table --------------------------------------------------------------------------------


def _masked(content: bytes) -> int:
    """Returns the CRC32C as LevelDB stores it, and TFRecord."""
    return tfrecord.mask(tfrecord.crc32c(content))


def _entries(content: bytes, handles: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the table's keys and values, by the handle of its index block at `position`."""
    for _, handle in _block(content, handles, position):
        yield from _block(content, handle, 0)


def _block(content: bytes, handle: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of the block that a handle (offset, size) points at."""
    offset, position = _varint(handle, position)
    size, _ = _varint(handle, position)
    end = offset + size
    block, trailer = content[offset:end], content[end : end + _TRAILER_BYTES]
    kind, crc = struct.unpack("<BI", trailer)
    if _masked(block + trailer[:1]) != crc:
        raise ValueError(f"the block at byte {offset} has another CRC32C")
    if kind != _UNCOMPRESSED:
        raise ValueError(f"the block at byte {offset} is compressed")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    position, last, key = 0, size - 4 - 4 * restarts, b""
    while position < last:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh + length
        yield key, block[position - length : position]


def _skip_handle(content: bytes, position: int) -> int:
    return _varint(content, _varint(content, position)[1])[1]


# ---- the protobufs ----------------------------------------------------------------------------


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Returns the number at `position` and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _message(content: bytes) -> dict[int, list[int | bytes]]:
    """Returns field number -> values of a protobuf."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        value: int | bytes
        if tag & 7 == 0:
            value, position = _varint(content, position)
        elif tag & 7 == 2:
            length, position = _varint(content, position)
            value, position = content[position : position + length], position + length
        elif tag & 7 == 5:
            (value,), position = struct.unpack_from("<I", content, position), position + 4
        else:
            raise ValueError(f"a field of wire type {tag & 7}, which no entry has")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _integer(fields: dict[int, list[int | bytes]], number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def _entry(content: bytes) -> Entry:
    """Returns a BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc32c 6."""
    fields = _message(content)
    if 7 in fields:
        raise ValueError("it contains a partitioned variable")
    shape = _message(_bytes(fields.get(2, [b""])[-1]))
    sizes = tuple(_integer(_message(_bytes(dimension)), 1) for dimension in shape.get(2, []))
    dtype, shard, offset, size, crc32c = (_integer(fields, number) for number in (1, 3, 4, 5, 6))
    return Entry(dtype, sizes, shard, offset, size, crc32c)


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a shape is not a message")
    return value
