"""Bytes of examples, checksums and ids, as TensorFlow, protobuf and the standards have them."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import files
from pd_jax.data.records import shards as shards_lib
from pd_jax.data.wire import example, tfrecord


def test_an_example_is_the_bytes_that_tensorflow_writes():
    # features { feature { key: "a" value { int64_list { value: [1, 300] } } } }, by hand.
    list_ = b"\x0a\x03\x01\xac\x02"
    feature = b"\x1a\x05" + list_
    entry = b"\x0a\x01a" + b"\x12\x07" + feature
    wire = b"\x0a\x0e" + b"\x0a\x0c" + entry
    encoded = example.encode({"a": np.array([1, 300])})
    assert encoded.payload == wire
    assert encoded.payload[slice(*np.cumsum(encoded.spans["a"]))] == b"\x01\xac\x02"


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.binary(min_size=1), st.floats(width=32))
@settings(max_examples=200, deadline=None)
def test_what_is_encoded_is_what_protobuf_parses(numbers, name, value):
    floats = np.array([value], np.float32)
    encoded = example.encode({"n": np.array(numbers), "id": name, "f": floats})
    found = example.parse(encoded.payload)
    assert found["n"] == numbers
    assert found["id"] == [name]
    np.testing.assert_array_equal(np.array(found["f"], np.float32), floats)
    span = encoded.spans["n"]
    data = np.frombuffer(encoded.payload, np.uint8)[span.start : span.start + span.size]
    assert example.decode_varints(data)[0].tolist() == numbers


def test_varints_cut_short_or_too_large_are_refused():
    with pytest.raises(ValueError, match="cut short"):
        example.decode_varints(np.array([1, 0x80], np.uint8))
    with pytest.raises(ValueError, match="too large"):
        example.decode_varints(np.array([0x80] * 5 + [1], np.uint8))
    with pytest.raises(ValueError, match="negative"):
        example.encode_varints(np.array([5, -1]))


def test_checksums_are_those_of_the_standard():
    # RFC 3720, B.4: 32 bytes of zeros; and its mask, worked out by hand from the rotation.
    crc = tfrecord.crc32c(bytes(32))
    assert crc == 0x8A9136AA
    assert (
        tfrecord.mask(crc) == ((0x8A9136AA >> 15 | (0x8A9136AA << 17) % 2**32) + 0xA282EAD8) % 2**32
    )


def test_example_ids_are_of_the_canonical_text():
    part = "é".encode()
    framed = len(part).to_bytes(8, "little") + part
    expected = hashlib.blake2b(framed, digest_size=16).digest()
    assert shards_lib.example_id(" e\u0301\n") == shards_lib.example_id("é") == expected
    pair = shards_lib.example_id("a", "b")
    assert len({pair, shards_lib.example_id("ab"), shards_lib.example_id("b", "a")}) == 3
    assert pair.hex() == files.digest_bytes(b"a", b"b")
