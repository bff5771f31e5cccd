"""TFRecord framing: where each payload lies in a file, and whether it is what was written.

A record on disk is its length (8 bytes), a masked CRC-32C of those 8 bytes, the payload, and a
masked CRC-32C of the payload, all little-endian. Source: tensorflow/core/lib/io/record_writer.h.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import google_crc32c
import numpy as np
from etils import epath

from pd_jax.errors import RecordsError

HEADER_BYTES = 12
FOOTER_BYTES = 4

_MASK_DELTA = 0xA282EAD8
_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_PAYLOAD = 1 << 26


class Framed(NamedTuple):
    """One record of a file: its number, the byte at which its payload begins, and the payload."""

    number: int
    offset: int
    payload: bytes


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of `content`."""
    return google_crc32c.value(content)


def mask(crc: int) -> int:
    """Returns a CRC-32C as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes, crc: int) -> bytes:
    """Returns the record on disk for a payload and its (unmasked) CRC-32C."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, struct.pack("<I", mask(crc32c(length))), payload, struct.pack("<I", mask(crc)))
    )


def read_frames(path: epath.PathLike) -> Iterator[Framed]:
    """Yields a file's records in order; of a gzipped file, offsets count uncompressed bytes.

    Raises:
      RecordsError: at the first record that is cut short or fails a CRC, naming file and record.
    """
    path = epath.Path(path)
    with path.open("rb") as stream:
        zipped = stream.read(2) == _GZIP_MAGIC
        stream.seek(0)
        source = gzip.GzipFile(fileobj=stream, mode="rb") if zipped else stream
        try:
            yield from _frames(source, str(path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
            raise RecordsError(
                f"{path} is a damaged gzip file ({fault}); download or rebuild it"
            ) from None


def _frames(stream: IO[bytes] | gzip.GzipFile, name: str) -> Iterator[Framed]:
    offset = 0
    number = 0
    while header := stream.read(HEADER_BYTES):
        fault = f"{name} record {number} (at byte {offset})"
        if len(header) < HEADER_BYTES:
            raise RecordsError(f"{fault} is cut short; download or rebuild the file")
        length, length_crc = struct.unpack("<QI", header)
        if mask(crc32c(header[:8])) != length_crc or length > _LARGEST_PAYLOAD:
            raise RecordsError(
                f"{fault} has a damaged length, or this is not a TFRecord file;"
                " download or rebuild it"
            )
        body = stream.read(length + FOOTER_BYTES)
        if len(body) < length + FOOTER_BYTES:
            raise RecordsError(f"{fault} is cut short; download or rebuild the file")
        payload = body[:length]
        if mask(crc32c(payload)) != int.from_bytes(body[length:], "little"):
            raise RecordsError(f"{fault} fails its checksum; download or rebuild the file")
        yield Framed(number, offset + HEADER_BYTES, payload)
        offset += HEADER_BYTES + length + FOOTER_BYTES
        number += 1


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns starts[i], ..., starts[i] + lengths[i] - 1 for all i, one after another (int64)."""
    lengths = lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts.astype(np.int64) - (ends - lengths), lengths) + np.arange(total)
