"""Writes TF1 checkpoints, byte for byte as TensorFlow lays them out, without TensorFlow."""

import json
import pathlib
import struct

import google_crc32c
import numpy as np

from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf_config


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(rows: list[tuple[bytes, bytes]]) -> bytes:
    """Returns a block whose keys share their prefixes with the key before."""
    out, before = b"", b""
    for key, value in rows:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b),
            min(len(key), len(before)),
        )
        out += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        before = key
    out += struct.pack("<II", 0, 1)
    return out + b"\0" + struct.pack("<I", masked(out + b"\0"))


def entry(value: np.ndarray, offset: int, dtype: int) -> bytes:
    dimensions = b"".join(
        b"\x12" + varint(len(size)) + size for size in (b"\x08" + varint(n) for n in value.shape)
    )
    return (
        b"\x08" + varint(dtype) + b"\x12" + varint(len(dimensions)) + dimensions
        + b"\x20" + varint(offset) + b"\x28" + varint(value.nbytes)
        + b"\x35" + struct.pack("<I", masked(value.tobytes()))
    )  # fmt: skip


def table(rows: list[tuple[bytes, bytes]]) -> bytes:
    """Returns an `.index` file with these keys and values, in blocks of five."""
    out, index = b"", []
    for first in range(0, len(rows), 5):
        part = block(rows[first : first + 5])
        index.append((rows[first : first + 5][-1][0], varint(len(out)) + varint(len(part) - 5)))
        out += part
    footer = varint(0) + varint(0) + varint(len(out)) + varint(len(block(index)) - 5)
    return out + block(index) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(folder: pathlib.Path, tensors: dict[str, np.ndarray], config: BertConfig) -> pathlib.Path:
    """Writes a checkpoint as TensorFlow would, in blocks of five tensors, with its config."""
    folder.mkdir(exist_ok=True)
    data, rows = b"", [(b"", b"\x08\x01\x1a\x02\x08\x01")]
    for name, value in sorted(tensors.items()):
        rows.append((name.encode(), entry(value, len(data), 9 if value.dtype == np.int64 else 1)))
        data += value.tobytes()
    prefix = folder / "bert_model.ckpt"
    prefix.with_name("bert_model.ckpt.index").write_bytes(table(rows))
    prefix.with_name("bert_model.ckpt.data-00000-of-00001").write_bytes(data)
    values = hf_config.values_of(config, {"bert": {}}, labels=(), task=None)
    (folder / "bert_config.json").write_text(json.dumps(values))
    return prefix
