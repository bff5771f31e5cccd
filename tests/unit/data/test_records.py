"""Records: what is written is read, and nothing else is."""

import gzip
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import files
from pd_jax.data.records import dataset as dataset_lib
from pd_jax.data.records import manifest
from pd_jax.data.records import shards as shards_lib
from pd_jax.data.wire import remote, tfrecord
from pd_jax.errors import RecordsError


def rewrite(path, change):
    """Replaces a file's bytes by `change` of them."""
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(content) or content))


# ---- rows ----------------------------------------------------------------------------------------


def test_rows_come_back_in_the_order_asked_for(make_dataset, record):
    rows = [record(n, length=3 + n % 4, label=n % 2) for n in range(10)]
    dataset = make_dataset(rows, shards=(4, 0, 6), task="classification", labels=("no", "yes"))
    assert len(dataset) == 10
    assert dataset.lengths.tolist() == [3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    found = dataset.gather(np.array([9, 0, 4, 0]))
    expected = [101, 1009, 1009, 102] + [101, 1000, 102] + [101, 1004, 102] + [101, 1000, 102]
    assert found.tokens.tolist() == expected
    assert found.tokens.dtype == found.lengths.dtype == np.int32
    assert found.lengths.tolist() == [4, 3, 3, 3]
    assert found.segments is None and found.next_sentence is None
    assert found.labels.tolist() == [1, 0, 0, 0] and found.labels.dtype == np.int32
    assert found.example_ids[0].tobytes() == shards_lib.example_id("row 9")
    assert found.example_ids.shape == (4, 16)
    assert dataset.gather(np.array([], int)).tokens.tolist() == []
    assert dataset.place(9).endswith("set-00002-of-00003.tfrecord row 5")
    with pytest.raises(IndexError, match="rows 0 to 9"):
        dataset.gather(np.array([10]))


def test_pairs_and_next_sentences(make_dataset, record):
    segments = np.array([0, 0, 1, 1])
    rows = [record(0, 4, segment_ids=segments, next_sentence=1), record(1, 3, next_sentence=0)]
    dataset = make_dataset(rows)
    found = dataset.gather(np.array([1, 0]))
    assert dataset.manifest.pairs
    assert found.segments.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert found.next_sentence.tolist() == [0, 1]


def test_regression_and_multilabel(make_dataset, record):
    scores = make_dataset(
        [record(n, 3, label=value) for n, value in enumerate((2.5, -1.25))],
        name="scores",
        task="regression",
    )
    found = scores.gather(np.array([1, 0])).labels
    assert found.tolist() == [-1.25, 2.5] and found.dtype == np.float32
    several = make_dataset(
        [record(n, 3, label=value) for n, value in enumerate(((1, 0, 1), (0, 0, 0)))],
        name="several",
        task="multilabel",
        labels=("a", "b", "c"),
    )
    found = several.gather(np.array([1, 0])).labels
    assert found.tolist() == [[0, 0, 0], [1, 0, 1]] and found.dtype == np.float32


@given(
    st.lists(st.lists(st.integers(0, 30521), min_size=1, max_size=40), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_any_tokens_survive(tmp_path_factory, vocabulary, rows, random):
    folder = tmp_path_factory.mktemp("any")
    made = [
        shards_lib.Record(np.array(ids), None, shards_lib.example_id(str(number)))
        for number, ids in enumerate(rows)
    ]
    info = shards_lib.write_shard(folder, "any", index=0, of=1, records=made)
    assert info.tokens == sum(map(len, rows)) and info.longest == max(map(len, rows))
    shards_lib.finish(folder, [info], name="any", tokenizer=vocabulary, max_length=40)
    wanted = [random.randrange(len(rows)) for _ in range(20)]
    found = dataset_lib.Dataset.open(folder).gather(np.array(wanted))
    assert found.tokens.tolist() == [token for row in wanted for token in rows[row]]


def test_tensorflow_reads_the_same_records(make_dataset, record):
    tensorflow = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    dataset = make_dataset(
        [record(n, 5, label=1) for n in range(3)], task="classification", labels=("a", "b")
    )
    raw = tensorflow.data.TFRecordDataset(str(dataset.folder / "set-00000-of-00001.tfrecord"))
    parsed = [tensorflow.train.Example.FromString(payload.numpy()) for payload in raw]
    assert [one.features.feature["input_ids"].int64_list.value[1] for one in parsed] == [
        1000,
        1001,
        1002,
    ]


# ---- damage --------------------------------------------------------------------------------------


@pytest.fixture
def dataset(make_dataset, record):
    """A dataset of two shards with five rows each, all records of one size."""
    return make_dataset([record(n, 4, next_sentence=0) for n in range(10)], shards=(5, 5))


def test_a_flipped_byte_anywhere_in_a_row_names_shard_and_row(dataset):
    path = dataset.folder / "set-00001-of-00002.tfrecord"
    index = np.load(dataset.folder / "set-00001-of-00002.index.npy")
    whole = path.read_bytes()
    for at in range(int(index["size"][3])):
        content = bytearray(whole)
        content[int(index["offset"][3]) + at] ^= 0x10
        path.write_bytes(bytes(content))
        opened = dataset_lib.Dataset.open(dataset.folder)
        assert len(opened.gather(np.array([0, 7, 9])).lengths) == 3
        with pytest.raises(RecordsError, match=r"set-00001-of-00002\.tfrecord row 3 is damaged"):
            opened.gather(np.array([0, 8, 9]))


def test_a_truncated_a_missing_and_a_lengthened_shard(dataset):
    path = dataset.folder / "set-00001-of-00002.tfrecord"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 5 * 4], whole + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(RecordsError, match="set-00001-of-00002.tfrecord has"):
            dataset_lib.Dataset.open(dataset.folder)
    path.unlink()
    with pytest.raises(RecordsError, match="set-00001-of-00002.tfrecord is missing"):
        dataset_lib.Dataset.open(dataset.folder)


def test_a_shard_cut_after_opening_is_refused_when_it_is_read(dataset):
    opened = dataset_lib.Dataset.open(dataset.folder)
    rewrite(dataset.folder / "set-00001-of-00002.tfrecord", lambda content: content[:-20])
    opened.gather(np.arange(5))
    with pytest.raises(RecordsError, match="set-00001-of-00002.tfrecord has"):
        opened.gather(np.array([0, 9]))


def test_a_dataset_that_is_open_twice_has_its_index_in_memory_once(dataset):
    again = dataset_lib.Dataset.open(dataset.folder)
    for one, other in zip(dataset._indexes, again._indexes, strict=True):
        assert one is other and not one.flags.writeable


def test_the_index_of_another_shard(dataset):
    first, second = (dataset.folder / f"set-0000{n}-of-00002.index.npy" for n in (0, 1))
    shutil.copy(first, second)
    with pytest.raises(RecordsError, match="set-00001-of-00002.index.npy is not the index of"):
        dataset_lib.Dataset.open(dataset.folder)
    second.unlink()
    with pytest.raises(RecordsError, match="set-00001-of-00002.index.npy is missing"):
        dataset_lib.Dataset.open(dataset.folder)


def test_a_shard_in_the_place_of_another_of_equal_layout(dataset):
    first, second = (dataset.folder / f"set-0000{n}-of-00002.tfrecord" for n in (0, 1))
    assert len(first.read_bytes()) == len(second.read_bytes())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    opened = dataset_lib.Dataset.open(dataset.folder)
    with pytest.raises(RecordsError, match="set-00000-of-00002.tfrecord row 2 is damaged"):
        opened.gather(np.array([2]))


@pytest.mark.parametrize("key", ["rows", "labels", "max_length", "fingerprint", "arguments"])
def test_a_manifest_edited_by_hand(dataset, key):
    path = dataset.folder / "manifest.json"
    value = json.loads(path.read_text())
    value[key] = {
        "rows": 9,
        "labels": ["x"],
        "max_length": 64,
        "fingerprint": "0",
        "arguments": {"a": 1},
    }[key]
    path.write_text(json.dumps(value))
    with pytest.raises(RecordsError, match="manifest.json was changed after it was written"):
        dataset_lib.Dataset.open(dataset.folder)


def test_a_manifest_edited_by_hand_with_a_new_digest_still_contradicts_itself(dataset):
    path = dataset.folder / "manifest.json"
    value = {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}
    manifest.write_sealed(path, value | {"rows": 9})
    with pytest.raises(RecordsError, match="contradicts itself"):
        dataset_lib.Dataset.open(dataset.folder)
    manifest.write_sealed(path, {k: v for k, v in value.items() if k != "pairs"})
    with pytest.raises(RecordsError, match="pairs"):
        dataset_lib.Dataset.open(dataset.folder)


def test_a_manifest_that_is_missing_or_of_something_else(dataset):
    path = dataset.folder / "manifest.json"
    path.write_text('{"format": "something else"}')
    with pytest.raises(RecordsError, match="not in the format"):
        dataset_lib.Dataset.open(dataset.folder)
    path.write_text("{")
    with pytest.raises(RecordsError, match="not valid JSON"):
        dataset_lib.Dataset.open(dataset.folder)
    path.unlink()
    with pytest.raises(RecordsError, match="its build has not finished"):
        dataset_lib.Dataset.open(dataset.folder)


def test_tokens_outside_the_vocabulary_and_labels_outside_the_labels(make_dataset, record):
    rows = [record(n, 3, label=n) for n in range(3)]
    dataset = make_dataset(rows, task="classification", labels=("a", "b"))
    with pytest.raises(RecordsError, match="row 2 has label 2, but there are 2 labels"):
        dataset.gather(np.array([0, 2, 1]))
    rows = [record(0, 3), shards_lib.Record(np.array([101, 30522, 102]), None, bytes(16))]
    with pytest.raises(RecordsError, match="row 1 has token 30522, outside the vocabulary"):
        make_dataset(rows, name="other").gather(np.array([0, 1]))


def test_a_remote_shard_is_read_in_blocks_each_once(dataset, monkeypatch):
    asked = []

    def read_range(path, begin, size):
        asked.append((path.name, begin))
        return path.read_bytes()[begin : begin + size]

    rows = np.array([9, 0, 7, 1])
    wanted = dataset.gather(rows)
    monkeypatch.setattr(dataset_lib, "_CACHE_BYTES", 0)
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    monkeypatch.setattr(remote, "read_range", read_range)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 100)
    monkeypatch.setattr(dataset_lib, "_CACHE_BYTES", 0)
    opened = dataset_lib.Dataset.open(dataset.folder)
    for _ in range(2):
        found = opened.gather(rows)
        assert found.tokens.tolist() == wanted.tokens.tolist()
        assert (found.example_ids == wanted.example_ids).all()
    assert asked == sorted(set(asked)) and len(asked) > 4


def test_frames_are_read_gzipped_or_not_and_damage_is_named(dataset, tmp_path):
    path = dataset.folder / "set-00000-of-00002.tfrecord"
    plain = list(tfrecord.read_frames(path))
    index = np.load(dataset.folder / "set-00000-of-00002.index.npy")
    assert [one.offset for one in plain] == index["offset"].tolist()
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert list(tfrecord.read_frames(zipped)) == plain
    zipped.write_bytes(zipped.read_bytes()[:-12])
    with pytest.raises(RecordsError, match="zipped is a damaged gzip file"):
        list(tfrecord.read_frames(zipped))
    rewrite(path, lambda content: content[:-1])
    with pytest.raises(RecordsError, match="record 4 .* is cut short"):
        list(tfrecord.read_frames(path))
    rewrite(path, lambda content: content.__setitem__(20, content[20] ^ 1))
    with pytest.raises(RecordsError, match=r"record 0 \(at byte 0\) fails its checksum"):
        list(tfrecord.read_frames(path))
    rewrite(path, lambda content: content.__setitem__(3, 1))
    with pytest.raises(RecordsError, match="record 0 .* has a damaged length"):
        list(tfrecord.read_frames(path))
