"""Records: shards are written whole or not at all, and equal ones have equal bytes."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from pd_jax.data.records import manifest, shards
from pd_jax.errors import RecordsError


def test_equal_records_give_equal_bytes_and_fingerprints(make_dataset, record):
    rows = [record(n, 4) for n in range(6)]
    first = make_dataset(rows, name="first", shards=(3, 3))
    second = make_dataset(rows, name="second", shards=(3, 3), arguments={"other": True})
    assert first.fingerprint == second.fingerprint
    other = make_dataset([record(7, 4), *rows[1:]], name="third", shards=(3, 3))
    assert other.fingerprint != first.fingerprint


def test_a_shard_whose_records_fail_leaves_nothing(tmp_path, record):
    def broken():
        yield record(0, 4)
        raise RecordsError("the source ended in the middle")

    with pytest.raises(RecordsError, match="in the middle"):
        shards.write_shard(tmp_path, "x", index=0, of=1, records=broken())
    assert list(tmp_path.iterdir()) == []
    assert shards.whole_shard(tmp_path, "x", index=0, of=1) is None


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, record, monkeypatch):
    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kind = type(epath.Path(tmp_path))
    real = kind.open
    monkeypatch.setattr(kind, "open", lambda self, mode="r": Full(real(self, mode)))
    with pytest.raises(
        RecordsError, match=r"x-00000-of-00001\.tfrecord could not be written .*No space left"
    ):
        shards.write_shard(tmp_path, "x", index=0, of=1, records=[record(0, 4)])
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_at_any_moment_leaves_no_shard_that_is_taken_for_whole(tmp_path):
    program = (
        "import numpy as np, itertools\n"
        "from pd_jax.data.records import shards\n"
        "print('ready', flush=True)\n"
        "rows = (shards.Record(np.arange(1, 200), None, bytes(16)) for _ in itertools.count())\n"
        f"shards.write_shard({str(tmp_path)!r}, 'x', index=0, of=1, records=rows)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"ready\n"
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            pass
        process.kill()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".x-00000-of-00001.tfrecord.partial-{process.pid}-")
    assert shards.whole_shard(tmp_path, "x", index=0, of=1) is None


def test_whole_shards_are_recognised_and_others_are_not(tmp_path, record):
    rows = [record(n, 4) for n in range(3)]
    made = shards.write_shard(tmp_path, "x", index=0, of=2, records=rows, made_from="arguments 1")

    def look(made_from="arguments 1"):
        return shards.whole_shard(tmp_path, "x", index=0, of=2, made_from=made_from)

    assert look() == made
    assert look("arguments 2") is None
    path = tmp_path / made.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert look() is None
    path.unlink()
    assert look() is None
    path.write_bytes(whole)
    assert look() == made
    (tmp_path / made.index_file).unlink()
    assert look() is None


def test_rows_that_cannot_be_stored_are_named(tmp_path, record):
    def write(*rows):
        shards.write_shard(tmp_path, "x", index=0, of=1, records=rows)

    with pytest.raises(
        RecordsError, match="x-00000-of-00001.tfrecord row 1: example_id has 3 bytes"
    ):
        write(record(0, 4), record(1, 4, example_id=b"abc"))
    with pytest.raises(RecordsError, match="row 0: segment_ids must be 0 or 1"):
        write(record(0, 4, segment_ids=np.array([0, 1])))
    with pytest.raises(RecordsError, match="row 0: negative numbers"):
        write(record(0, 4, label=-1))
    with pytest.raises(RecordsError, match="row 0: next_sentence is 2"):
        write(record(0, 4, next_sentence=2))
    with pytest.raises(RecordsError, match="row 0: feature 'input_ids' must be"):
        write(shards.Record(np.array([], int), None, bytes(16)))
    with pytest.raises(RecordsError, match="row 1 differs from the rows before it in label_ids"):
        write(record(0, 4), record(1, 4, label=1))


def test_finish_refuses_what_is_no_dataset(tmp_path, record, vocabulary):
    def shard(index, *rows, of=2):
        return shards.write_shard(tmp_path, "x", index=index, of=of, records=rows)

    def finish(*found, **arguments):
        arguments = {"max_length": 8} | arguments
        shards.finish(tmp_path, found, name="x", tokenizer=vocabulary, **arguments)

    plain, labelled, empty = record(0, 4), record(1, 4, label=1), ()
    with pytest.raises(RecordsError, match="x-00000-of-00001.tfrecord is not among the shards"):
        finish(shard(0, plain))
    with pytest.raises(RecordsError, match="no rows"):
        finish(shard(0, *empty), shard(1, *empty))
    with pytest.raises(RecordsError, match="differ in their features"):
        finish(shard(0, plain), shard(1, labelled))
    with pytest.raises(RecordsError, match="'regression' needs label_values.*label_ids"):
        finish(shard(0, labelled), shard(1, labelled), task="regression")
    with pytest.raises(RecordsError, match="needs the names of its labels"):
        finish(shard(0, labelled), shard(1, labelled), task="classification")
    with pytest.raises(RecordsError, match="row of 4 tokens, more than max_length=3"):
        finish(shard(0, plain), shard(1, plain), max_length=3)
    assert not (tmp_path / "manifest.json").exists()


def test_a_shard_whose_note_the_disk_refuses_is_told_by_name(tmp_path, monkeypatch):
    def refuse(path, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write_sealed", refuse)
    with pytest.raises(RecordsError, match=r"x-00000-of-00001.* could not be written .*No space"):
        shards.write_shard(tmp_path, "x", index=0, of=1, records=[])
    assert shards.whole_shard(tmp_path, "x", index=0, of=1) is None
