"""Ways to spoil a file: byte by byte, and as one who knows its format would."""

import gzip
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from pd_jax import files
from pd_jax.data.wire import tfrecord

Mutator = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 1 << 31, (1 << 31) - 1, 1 << 32, -(1 << 31))
HUGE = (1 << 40, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 10**30, -(10**30), 1e308, -0.5)
TEXTS = (
    "", " ", "x" * 300, "../../outside", "/etc/passwd", "a/../../b", "..", ".", "~", "C:\\x",
    "gs://bucket/x", "file:///etc/passwd", "\x00", "a\x00b", "\ud800", "\u202e", "é" * 9, "%s%n",
    "{}", "${HOME}", "NaN", "Infinity", "-1", "null", "__class__", "<script>alert(1)</script>",
)  # fmt: skip
TOKENS = (
    b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x00" * 16, b"\n", b"\r\n", b"\t", b",", b'"', b'"""',
    b"{", b"}", b"[" * 200, b"../", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"NaN", b"1e999",
    b"cos\nsystem\n(S'true'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.", b"\x80\x04\x95",
    b"PK\x03\x04", b"\x1f\x8b\x08\x00",
)  # fmt: skip
_LARGEST_CASE = 1 << 20


def spoil(chance: random.Random, content: bytes) -> bytes:
    """Returns the bytes after one to four small accidents."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(_ACCIDENTS)(chance, data)
    return bytes(data[:_LARGEST_CASE])


def _place(chance: random.Random, data: bytearray) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 1, 2, 4, 8, 64, 1024)))


def _flip(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _number(chance: random.Random, data: bytearray) -> None:
    start, _ = _place(chance, data)
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice((*NUMBERS, *(int(n) for n in HUGE[:5]))) % (1 << 8 * width)
    data[start : start + width] = value.to_bytes(width, chance.choice(("little", "big")))


def _drop(chance: random.Random, data: bytearray) -> None:
    start, end = _place(chance, data)
    del data[start:end]


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _repeat(chance: random.Random, data: bytearray) -> None:
    start, end = _place(chance, data)
    data[end:end] = data[start:end] * chance.choice((1, 2, 50))


def _insert(chance: random.Random, data: bytearray) -> None:
    start, _ = _place(chance, data)
    data[start:start] = chance.choice(TOKENS)


def _move(chance: random.Random, data: bytearray) -> None:
    start, end = _place(chance, data)
    part = data[start:end]
    del data[start:end]
    at = chance.randrange(len(data) + 1)
    data[at:at] = part


_ACCIDENTS = (_flip, _flip, _number, _drop, _cut, _repeat, _insert, _insert, _move)


# ---- JSON --------------------------------------------------------------------------------------


def spoil_json(chance: random.Random, content: bytes) -> bytes:
    """Returns the JSON with one to three values in it replaced, or spoilt bytes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if value is None or chance.random() < 0.2:
        return spoil(chance, content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = spoil_value(chance, value)
    return json.dumps(value).encode()


def spoil_lines(chance: random.Random, content: bytes) -> bytes:
    """Returns lines of JSON of which one is spoilt."""
    found = content.split(b"\n")
    at = chance.randrange(len(found))
    found[at] = spoil_json(chance, found[at])
    return b"\n".join(found)


def spoil_value(chance: random.Random, value: Any) -> Any:
    """Returns a JSON value with something in it replaced, removed, added or exchanged."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = chance.choice(list(keys))
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        act = chance.random()
        if act < 0.1:
            del copy[key]
        elif act < 0.2:
            copy[key] = value[chance.choice(list(keys))]
        elif act < 0.25 and isinstance(copy, dict):
            copy[chance.choice(TEXTS)] = copy[key]
        elif act < 0.3 and isinstance(copy, list):
            copy += [copy[key]] * chance.choice((1, 3, 1000))
        else:
            copy[key] = spoil_value(chance, value[key])
        return copy
    return _strange(chance, value)


def _strange(chance: random.Random, value: Any) -> Any:
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 2, 100)) if chance.random() < 0.5 else -value
    deep: Any = None
    for _ in range(chance.choice((1, 3, 400))):
        deep = [deep]
    choices = (
        None, True, {}, [], deep, {"x": {}}, [value] * 3, {"": value}, float("nan"), float("inf"),
        *NUMBERS, *HUGE, *TEXTS, str(value),
    )  # fmt: skip
    return chance.choice(choices)


def seal(value: dict[str, Any]) -> bytes:
    """Returns a JSON object with the digest of itself that our manifests need."""
    value = {name: item for name, item in value.items() if name != "digest"}
    return json.dumps({**value, "digest": files.digest_json(value)}).encode()


def sealed(mutator: Mutator) -> Mutator:
    """Returns a mutator whose result carries the digest of itself that our manifests need."""

    def mutate(chance: random.Random, content: bytes) -> bytes:
        found = mutator(chance, content)
        if chance.random() < 0.1:
            return found
        try:
            return seal(json.loads(found))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return found

    return mutate


# ---- binary formats ----------------------------------------------------------------------------


def zipped(mutator: Mutator) -> Mutator:
    """Returns a mutator of what is in a gzip file, or of the gzip file."""

    def mutate(chance: random.Random, content: bytes) -> bytes:
        if chance.random() < 0.3:
            return spoil(chance, content)
        try:
            inside = gzip.decompress(content)
        except (OSError, EOFError, ValueError, zlib.error):
            return spoil(chance, content)
        return gzip.compress(mutator(chance, inside), 1, mtime=0)

    return mutate


def frames(content: bytes) -> list[bytes]:
    """Returns the payloads of TFRecords as far as their lengths make sense, checksums unread."""
    found, at = [], 0
    while at + tfrecord.HEADER_BYTES <= len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        begin = at + tfrecord.HEADER_BYTES
        if begin + size > len(content):
            break
        found.append(content[begin : begin + size])
        at = begin + size + tfrecord.FOOTER_BYTES
    return found


def spoil_records(chance: random.Random, content: bytes) -> bytes:
    """Returns TFRecords with a payload spoilt and checksums that fit, or spoilt bytes."""
    payloads = frames(content)
    if not payloads or chance.random() < 0.2:
        return spoil(chance, content)
    at = chance.randrange(len(payloads))
    act = chance.random()
    if act < 0.7:
        payloads[at] = spoil(chance, payloads[at])
    elif act < 0.8:
        payloads.insert(at, chance.choice(payloads))
    elif act < 0.9:
        del payloads[at]
    else:
        chance.shuffle(payloads)
    framed = [tfrecord.frame(payload, tfrecord.crc32c(payload)) for payload in payloads]
    if framed and chance.random() < 0.1:  # a length that nobody can keep, with a checksum that fits
        size = chance.choice((1 << 20, 1 << 30, (1 << 31) - 1, (1 << 63) + 5)).to_bytes(8, "little")
        crc = tfrecord.mask(tfrecord.crc32c(size)).to_bytes(4, "little")
        framed[-1] = size + crc + framed[-1][tfrecord.HEADER_BYTES :]
    return b"".join(framed)


def spoil_safetensors(chance: random.Random, content: bytes) -> bytes:
    """Returns a safetensors file with its JSON header spoilt, or spoilt bytes."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 + size or chance.random() < 0.2:
        return spoil(chance, content)
    header = spoil_json(chance, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def spoil_archive(chance: random.Random, content: bytes) -> bytes:
    """Returns a zip archive with an entry spoilt, renamed, doubled or compressed, or spoilt bytes.

    Names that lead out of a folder are among the new ones.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # whatever zipfile raises of a damaged archive
        return spoil(chance, content)
    if not entries or chance.random() < 0.2:
        return spoil(chance, content)
    at = chance.randrange(len(entries))
    name, data = entries[at]
    act = chance.random()
    if act < 0.7:
        entries[at] = (name, spoil(chance, data))
    elif act < 0.8:
        entries[at] = (chance.choice(("../x", "/tmp/x", "/", name + "/", "archive/../y")), data)
    elif act < 0.9:
        del entries[at]
    else:
        entries.append((name + "2", data))
    kind = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()
