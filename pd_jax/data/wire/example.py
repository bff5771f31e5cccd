"""tf.train.Example on the wire, without TensorFlow.

Writing: `encode` also returns where in the message each feature's values lie, so that a reader with
an index never parses a message. Reading: `decode_varints` turns the concatenated bytes of many rows
into numbers at once. Messages whose layout is not known beforehand go through `parse` (protobuf,
with a descriptor built at run time).
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

Values = bytes | np.ndarray
"""A feature: bytes, or a one-dimensional array of floats or non-negative integers, not empty."""

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 0x0A, 0x12, 0x1A
_FIRST, _SECOND = 0x0A, 0x12
_LONGEST_VARINT = 5


class Span(NamedTuple):
    """Where a feature's values lie in a message: first byte and number of bytes."""

    start: int
    size: int


class Encoded(NamedTuple):
    """A serialised tf.train.Example, and where the values of each of its features lie."""

    payload: bytes
    spans: dict[str, Span]


def encode(features: Mapping[str, Values]) -> Encoded:
    """Returns the serialised tf.train.Example; features are sorted, so equal rows give equal bytes.

    Raises:
      ValueError: on an empty or negative feature.
    """
    entries: list[bytes] = []
    ends: list[tuple[str, int, int]] = []
    total = 0
    for name in sorted(features):
        data, kind = _list_bytes(name, features[name])
        entry = _entry(name, kind, data)
        total += len(entry)
        entries.append(entry)
        ends.append((name, total, len(data)))
    head = bytes([_FIRST]) + _varint(total)
    # The values are the last thing in their entry, so an entry's end gives their place.
    found = {name: Span(len(head) + end - size, size) for name, end, size in ends}
    return Encoded(head + b"".join(entries), found)


def encode_varints(values: np.ndarray) -> bytes:
    """Returns non-negative integers as protobuf varints, one after another."""
    values = np.asarray(values)
    if int(values.min(initial=0)) < 0:
        raise ValueError("negative numbers have no place in a record")
    if int(values.max(initial=0)) < 1 << 7:
        return values.astype(np.uint8).tobytes()
    return b"".join(map(_varint, values.tolist()))


def decode_varints(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers (int64) in concatenated varints (uint8), and each one's last byte.

    Raises:
      ValueError: where the last varint has no end, or one needs more than 35 bits.
    """
    ends = np.flatnonzero(data < 0x80)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise ValueError("the last number is cut short")
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    widths = ends - starts
    longest = int(widths.max(initial=0)) + 1
    if longest > _LONGEST_VARINT:
        raise ValueError("a number is too large")
    numbers = (data[starts] & 0x7F).astype(np.int64)
    for group in range(1, longest):
        more = np.flatnonzero(widths >= group)
        numbers[more] |= (data[starts[more] + group] & 0x7F).astype(np.int64) << (7 * group)
    return numbers, ends


def parse(payload: bytes) -> dict[str, list]:
    """Returns feature name -> values (int, float or bytes) of any serialised tf.train.Example.

    Raises:
      ValueError: where the payload is not a tf.train.Example.
    """
    message = _example_class()()
    try:
        message.ParseFromString(payload)
    except DecodeError as fault:
        raise ValueError(str(fault)) from None
    found = {}
    for name, feature in message.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def _list_bytes(name: str, values: Values) -> tuple[bytes, int]:
    if isinstance(values, bytes):
        return values, _BYTES_LIST
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"feature {name!r} must be a one-dimensional array with at least one value"
        )
    if np.issubdtype(values.dtype, np.floating):
        return values.astype("<f4").tobytes(), _FLOAT_LIST
    return encode_varints(values), _INT64_LIST


def _entry(name: str, kind: int, data: bytes) -> bytes:
    """Returns an entry of the map Features.feature, whose values are `data`."""
    # All three lists keep their values in field 1: packed numbers, or the bytes themselves.
    values = bytes([_FIRST]) + _varint(len(data)) + data
    feature = bytes([kind]) + _varint(len(values)) + values
    key = name.encode("utf-8")
    body = (
        bytes([_FIRST])
        + _varint(len(key))
        + key
        + bytes([_SECOND])
        + _varint(len(feature))
        + feature
    )
    return bytes([_FIRST]) + _varint(len(body)) + body


@lru_cache(maxsize=1 << 20)
def _varint(value: int) -> bytes:
    # Cached, because token ids recur: looking one up costs a tenth of encoding it.
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@cache
def _example_class() -> type:
    """Returns the message class of tf.train.Example.

    Source: tensorflow/core/example/example.proto and feature.proto.
    """
    proto = descriptor_pb2.FileDescriptorProto(
        name="pd_jax/example.proto", package="pd_jax", syntax="proto3"
    )
    kind = descriptor_pb2.FieldDescriptorProto
    lists = {
        "BytesList": kind.TYPE_BYTES,
        "FloatList": kind.TYPE_FLOAT,
        "Int64List": kind.TYPE_INT64,
    }

    def message(number: int, name: str, of: str, **more: Any) -> dict[str, Any]:
        field = {"number": number, "name": name, "label": kind.LABEL_OPTIONAL, **more}
        return field | {"type": kind.TYPE_MESSAGE, "type_name": f".pd_jax.{of}"}

    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, value_type) in enumerate(lists.items(), start=1):
        proto.message_type.add(name=name).field.add(
            name="value", number=1, type=value_type, label=kind.LABEL_REPEATED
        )
        field = f"{name.removesuffix('List').lower()}_list"
        feature.field.add(**message(number, field, name, oneof_index=0))
    proto.message_type.append(feature)
    features = proto.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(**message(2, "value", "Feature"))
    features.field.add(**message(1, "feature", "Features.FeatureEntry", label=kind.LABEL_REPEATED))
    example = proto.message_type.add(name="Example")
    example.field.add(**message(1, "features", "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pd_jax.Example"))
