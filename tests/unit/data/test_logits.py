"""The logit store: a row's logits come with the row's id, or not at all."""

import json
import shutil

import numpy as np
import pytest

from pd_jax import config, files
from pd_jax.data.feed import batches as batches_lib
from pd_jax.data.logits import logit_shards, teachers
from pd_jax.data.logits import store as store_lib
from pd_jax.data.wire import example, remote, tfrecord
from pd_jax.errors import LogitsError
from tests import tiny

LABELS = ("negative", "neutral", "positive")
FIELDS = (logit_shards.Field("logits", (3,)),)
LAYOUT = logit_shards.Layout(FIELDS)


@pytest.fixture
def dataset(make_dataset, record):
    """Seven rows in shards of 3 and 4."""
    rows = [record(n, 4, label=n % 3) for n in range(7)]
    return make_dataset(rows, shards=(3, 4), task="classification", labels=LABELS)


@pytest.fixture
def values():
    """Seven rows of logits, all different."""
    return np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@pytest.fixture
def store(dataset, values, tmp_path):
    """The folder of a whole store for the dataset."""
    write(tmp_path / "store", dataset, values)
    return tmp_path / "store"


def write(folder, dataset, values, labels=LABELS, task="classification", **changes):
    return tiny.logit_store(folder, dataset, values, labels=labels, task=task, **changes)


def read(folder, dataset, rows):
    rows = np.array(rows)
    ids = dataset.gather(rows).example_ids
    return store_lib.LogitStore.open(folder).check(dataset).read(rows, ids)["logits"]


def edit(path, row, change):
    """Rewrites one row of a store's shard, with a checksum that fits the change."""
    frames = list(tfrecord.read_frames(path))
    payload = bytearray(frames[row].payload)
    change(payload)
    payloads = [frame.payload for frame in frames]
    payloads[row] = bytes(payload)
    path.write_bytes(b"".join(tfrecord.frame(p, tfrecord.crc32c(p)) for p in payloads))


def test_logits_come_back_bit_for_bit_in_the_order_asked_for(store, dataset, values):
    found = read(store, dataset, [6, 0, 3, 0])
    assert found.dtype == np.float32 and found.shape == (4, 3)
    np.testing.assert_array_equal(found, values[[6, 0, 3, 0]])


def test_a_remote_store_is_read_in_blocks_of_which_few_are_kept(
    store, dataset, values, monkeypatch
):
    asked = []

    def read_range(path, begin, size):
        asked.append((path.name, begin))
        return path.read_bytes()[begin : begin + size]

    size = LAYOUT.size
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    monkeypatch.setattr(remote, "read_range", read_range)
    monkeypatch.setattr(remote, "BLOCK_BYTES", size - 1)  # a row lies in two blocks
    monkeypatch.setattr(remote, "KEPT_BYTES", 2 * size)
    np.testing.assert_array_equal(read(store, dataset, [6, 0, 3, 0]), values[[6, 0, 3, 0]])
    first, second = sorted(shard.file for shard in store_lib.LogitStore.open(store).manifest.shards)
    wanted = [(first, 0), (first, 1), (second, 0), (second, 1), (second, 3), (second, 4)]
    wanted += [(first, block) for block in range(4)]  # to know both for the manifest's own
    wanted += [(second, block) for block in range(5)]
    assert asked == [(name, block * (size - 1)) for name, block in wanted]
    opened = store_lib.LogitStore.open(store).check(dataset)
    ids = dataset.gather(np.arange(7)).example_ids
    opened.read(np.arange(7), ids)
    for _ in range(2):
        asked.clear()
        np.testing.assert_array_equal(opened.read(np.arange(7), ids)["logits"], values)
        assert len(asked) == 9  # every block: those of before were dropped


def test_a_store_is_plain_tensorflow_records(store, dataset, values):
    found = [
        example.parse(frame.payload)
        for index in range(2)
        for frame in tfrecord.read_frames(store / f"set-0000{index}-of-00002.tfrecord")
    ]
    stored = np.array([one["logits"] for one in found], np.float32)
    np.testing.assert_array_equal(stored, values)
    ids = [one["example_id"][0] for one in found]
    assert ids == [row.tobytes() for row in dataset.gather(np.arange(7)).example_ids]


def test_the_manifest_says_what_it_is(store, dataset):
    manifest = store_lib.LogitStore.open(store).manifest
    assert (manifest.rows, manifest.outputs, manifest.task) == (7, 3, "classification")
    assert (manifest.labels, manifest.teacher) == (LABELS, "teacher")
    assert manifest.dataset == dataset.fingerprint


def test_swapped_rows(store, dataset):
    path = store / "set-00001-of-00002.tfrecord"
    payloads = [frame.payload for frame in tfrecord.read_frames(path)]
    payloads[1], payloads[2] = payloads[2], payloads[1]
    path.write_bytes(b"".join(tfrecord.frame(p, tfrecord.crc32c(p)) for p in payloads))
    assert len(read(store, dataset, [0, 1, 2])) == 3
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord row 1 belongs to a diff"):
        read(store, dataset, [0, 4, 5])
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord is not the file that its"):
        read(store, dataset, [0, 3, 6])  # those that lie where they did


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_shard_of_another_teachers_store(
    store, dataset, values, tmp_path, monkeypatch, is_remote
):
    write(tmp_path / "other", dataset, values + 1, teacher="another")
    name = "set-00001-of-00002.tfrecord"
    shutil.copy(tmp_path / "other" / name, store / name)  # of the same size, with the same ids
    monkeypatch.setattr(files, "is_remote", lambda path: is_remote)
    np.testing.assert_array_equal(read(store, dataset, [0, 1]), values[:2])
    with pytest.raises(LogitsError, match=rf"{name} is not the file that its manifest lists"):
        read(store, dataset, [0, 6])


def test_a_shard_is_compared_with_its_digest_once(store, dataset, values, monkeypatch):
    compared = []
    digest = store_lib._Shards._digest
    monkeypatch.setattr(
        store_lib._Shards, "_digest", lambda held, n: compared.append(n) or digest(held, n)
    )
    opened = store_lib.LogitStore.open(store)
    ids = dataset.gather(np.arange(7)).example_ids
    for _ in range(2):  # also of a store in another order of labels
        opened.check(dataset, ("positive", "neutral", "negative")).read(np.arange(7), ids)
        opened.check(dataset).read(np.arange(7), ids)
    assert compared == [0, 1]


def test_a_manifest_that_names_a_label_twice(dataset, values, tmp_path):
    with pytest.raises(LogitsError, match="manifest.json lists a label twice, so that outputs can"):
        write(tmp_path / "twice", dataset, values, labels=("a", "b", "a"))


def test_a_flipped_byte_anywhere_in_a_row(store, dataset):
    path = store / "set-00000-of-00002.tfrecord"
    whole = path.read_bytes()
    size = len(whole) // 3
    for at in range(size, 2 * size):
        content = bytearray(whole)
        content[at] ^= 0x20
        path.write_bytes(bytes(content))
        with pytest.raises(LogitsError, match="set-00000-of-00002.tfrecord row 1 is damaged"):
            read(store, dataset, [2, 1])


def test_a_flipped_id_byte_under_a_checksum_that_fits(store, dataset):
    path = store / "set-00000-of-00002.tfrecord"
    at = LAYOUT.id.start - tfrecord.HEADER_BYTES

    def flip(payload):
        payload[at + 5] ^= 1

    edit(path, 2, flip)
    with pytest.raises(LogitsError, match="set-00000-of-00002.tfrecord row 2 belongs to a diff"):
        read(store, dataset, [0, 2])


def test_logits_that_are_not_finite(store, dataset, values, tmp_path):
    at = LAYOUT.places["logits"].start - tfrecord.HEADER_BYTES

    def spoil(payload):
        payload[at + 4 : at + 8] = np.array(np.nan, "<f4").tobytes()

    edit(store / "set-00001-of-00002.tfrecord", 3, spoil)
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord row 3 has a logit that is"):
        read(store, dataset, [6])
    values[4, 1] = np.inf
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord row 1 has a logit that is"):
        write(tmp_path / "new", dataset, values)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_labels_in_another_order_are_mapped_by_name(dataset, values, tmp_path):
    write(tmp_path / "other", dataset, values, labels=("positive", "negative", "neutral"))
    np.testing.assert_array_equal(
        read(tmp_path / "other", dataset, [0, 5]), values[[0, 5]][:, [1, 2, 0]]
    )
    store = store_lib.LogitStore.open(tmp_path / "other")
    asked = store.check(dataset, ("neutral", "positive", "negative"))
    ids = dataset.gather(np.array([1])).example_ids
    np.testing.assert_array_equal(
        asked.read(np.array([1]), ids)["logits"], values[[1]][:, [2, 0, 1]]
    )


def test_other_labels_are_refused(dataset, values, tmp_path):
    write(tmp_path / "other", dataset, values, labels=("negative", "neutral", "good"))
    with pytest.raises(LogitsError, match="'good'.* are required"):
        read(tmp_path / "other", dataset, [0])


def test_a_store_of_another_dataset_is_refused(store, make_dataset, record):
    rows = [record(n + 1, 4, label=n % 3) for n in range(7)]
    other = make_dataset(rows, name="other", shards=(3, 4), task="classification", labels=LABELS)
    with pytest.raises(LogitsError, match="has logits for a dataset other than .*other"):
        store_lib.LogitStore.open(store).check(other)


def test_a_store_of_another_task_is_refused(dataset, tmp_path):
    one = np.zeros((7, 1), np.float32)
    write(tmp_path / "store", dataset, one, labels=(), task="regression")
    with pytest.raises(LogitsError, match="is for task 'regression', .* for 'classification'"):
        store_lib.LogitStore.open(tmp_path / "store").check(dataset)


def test_truncated_missing_and_edited_stores(store):
    path = store / "set-00001-of-00002.tfrecord"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord is missing or cut short"):
        store_lib.LogitStore.open(store)
    path.unlink()
    with pytest.raises(LogitsError, match="set-00001-of-00002.tfrecord is missing or cut short"):
        store_lib.LogitStore.open(store)
    path.write_bytes(whole)
    manifest = store / "manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(value | {"labels": ["positive", "neutral", "negative"]}))
    with pytest.raises(LogitsError, match="manifest.json was changed after it was written"):
        store_lib.LogitStore.open(store)
    manifest.unlink()
    with pytest.raises(LogitsError, match="not a logit store, or its labelling has not finished"):
        store_lib.LogitStore.open(store)


def test_a_dataset_is_no_store_and_a_store_no_dataset(store, dataset, tmp_path):
    with pytest.raises(LogitsError, match="not in the format"):
        store_lib.LogitStore.open(dataset.folder)
    shutil.copy(store / "manifest.json", dataset.folder / "manifest.json")
    with pytest.raises(Exception, match="not in the format 'pd_jax records 1'"):
        type(dataset).open(dataset.folder)


def test_what_does_not_fit_is_not_written(dataset, values, tmp_path):
    def shard(rows, index=0, of=1, ids=None):
        return logit_shards.write_logits_shard(
            tmp_path,
            "set",
            index=index,
            of=of,
            ids=np.zeros((ids or rows, 16), np.uint8),
            values={"logits": values[:rows]},
            fields=FIELDS,
        )

    settings = {"dataset": dataset, "teacher": "t", "task": "classification", "fields": FIELDS}
    with pytest.raises(LogitsError, match="do not match row for row"):
        shard(7, ids=2)
    with pytest.raises(LogitsError, match="its shards do not match those of"):
        store_lib.finish_logits(tmp_path, [shard(2)], labels=LABELS, **settings)
    both = [shard(size, index, of=2) for index, size in enumerate((3, 4))]
    with pytest.raises(LogitsError, match="3 outputs do not match classification with labels"):
        store_lib.finish_logits(tmp_path, both, labels=("a", "b"), **settings)


# ---- in the feed -------------------------------------------------------------------------------


def test_the_feed_brings_each_row_its_own_logits(store, dataset, values, tmp_path):
    second = np.flip(values, axis=0).copy()
    write(tmp_path / "second", dataset, second[:, [2, 0, 1]], ("positive", "negative", "neutral"))
    stores = [store_lib.LogitStore.open(store), store_lib.LogitStore.open(tmp_path / "second")]
    position = {"seed": 0, "first_step": 0, "steps": 5, "prefetch": 2}
    processes = {"process_index": 0, "process_count": 1}
    for opened, weights, expected in (
        (stores[:1], (), values),
        (stores, (), (values + second) / 2),
        (stores, (3.0, 1.0), 0.75 * values + 0.25 * second),
    ):
        settings = config.Data(
            records="set",
            logits=tuple("ab"[: len(opened)]),
            logit_weights=weights,
            batch=4,
            lengths=(8,),
        )
        batches = batches_lib.make_feed(
            [dataset], settings, stores=[opened], **position, **processes
        )
        for batch in batches:
            rows = batch["input_ids"][:, 1] - 1000
            np.testing.assert_allclose(batch["teacher_logits"], expected[rows], rtol=1e-6)
            assert batch["teacher_logits"].dtype == np.float32


def test_evaluation_batches_bring_logits_too(store, dataset, values):
    opened = teachers.Teachers(dataset, [store_lib.LogitStore.open(store)])
    for batch in batches_lib.evaluation_batches(dataset, batch=3, lengths=(8,), teachers=opened):
        np.testing.assert_array_equal(batch["teacher_logits"], values[batch["row"]])


def test_each_dataset_needs_every_teacher(store, dataset):
    opened = store_lib.LogitStore.open(store)
    settings = config.Data(records=("a", "b"), batch=2, lengths=(8,))
    for stores in ([[opened]], [[opened], []], [[], []]):
        with pytest.raises(LogitsError, match="each dataset needs a logit store from each teacher"):
            batches_lib.make_feed(
                [dataset, dataset],
                settings,
                stores=stores,
                seed=0,
                first_step=0,
                steps=1,
                process_index=0,
                process_count=1,
                prefetch=1,
            )


def test_probabilities_are_averaged_by_option():
    # By hand: teachers at (1/4, 3/4) and (1/2, 1/2); weights 3:1 give (5/16, 11/16).
    first, second = np.log([[0.25, 0.75]]) + 2.0, np.log([[0.5, 0.5]])
    logits = np.stack([first, second]).astype(np.float32)
    found = teachers.probability_mean(logits, [0.75, 0.25], task="classification")
    np.testing.assert_allclose(np.exp(found), [[5 / 16, 11 / 16]], rtol=1e-6)
    # Odds 1:3 and 1:1 of a label that stands alone: the same mean, as log-odds.
    logits = np.array([[[np.log(1 / 3), 0.0]], [[0.0, 0.0]]], np.float32)
    found = teachers.probability_mean(logits, [0.75, 0.25], task="multilabel")
    np.testing.assert_allclose(found, [[np.log(5 / 11), 0.0]], rtol=1e-6, atol=1e-7)
    extreme = np.array([[[800.0, -800.0]], [[-800.0, 800.0]]], np.float32)
    found = teachers.probability_mean(extreme, [1.0, 0.0], task="classification")
    np.testing.assert_allclose(found, [[0.0, -1600.0]])


def test_the_teachers_of_a_dataset_average_probabilities(store, dataset, values, tmp_path):
    second = np.flip(values, axis=0).copy()
    write(tmp_path / "second", dataset, second)
    stores = [store_lib.LogitStore.open(store), store_lib.LogitStore.open(tmp_path / "second")]
    read = teachers.Teachers(dataset, stores, average="probabilities").read
    found = read(np.arange(7), dataset.gather(np.arange(7)).example_ids)["teacher_logits"]
    softmax = [np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (values, second)]
    np.testing.assert_allclose(np.exp(found), sum(softmax) / 2, rtol=1e-5)


def test_rows_without_an_answer_are_not_learnt_from(dataset, values, tmp_path):
    values[[1, 5]] = np.nan
    with pytest.raises(LogitsError, match="set-00000-of-00002.tfrecord row 1 has a logit that is"):
        write(tmp_path / "refused", dataset, values)
    made = write(tmp_path / "store", dataset, values, complete=False)
    assert made.missing == 2 and [shard.missing for shard in made.shards] == [1, 1]
    opened = teachers.Teachers(dataset, [store_lib.LogitStore.open(tmp_path / "store")])
    assert not opened.complete
    found = opened.read(np.arange(7), dataset.gather(np.arange(7)).example_ids)
    assert found["weight"].tolist() == [1, 0, 1, 1, 1, 0, 1]
    np.testing.assert_array_equal(found["teacher_logits"], np.nan_to_num(values))
    values[2, 0] = np.nan  # a row that is half an answer is a fault, whatever is allowed
    with pytest.raises(LogitsError, match="set-00000-of-00002.tfrecord row 2 has a logit that is"):
        write(tmp_path / "half", dataset, values, complete=False)
