"""The verifier: nothing wrong is passed over, and every fault has a shard and a row."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from pd_jax import config, files
from pd_jax.data.feed import batches
from pd_jax.data.records import audit, manifest, shards
from pd_jax.data.records import shards as shards_lib
from pd_jax.data.wire import tfrecord
from pd_jax.errors import LogitsError, RecordsError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.parallel.mesh import make_mesh
from pd_jax.parallel.sharding import put_batch
from pd_jax.stages.predict import make_predict
from pd_jax.tools import label, verify
from tests import tiny

LABELS = ("no", "yes")


@pytest.fixture
def dataset(make_dataset, record):
    """Three shards of four rows with pairs and labels."""
    segments = np.array([0, 0, 1, 1])
    rows = [record(n, 4, segment_ids=segments, label=n % 2, next_sentence=0) for n in range(12)]
    return make_dataset(rows, shards=(4, 4, 4), task="classification", labels=LABELS)


def faults(dataset):
    found = manifest.read(dataset.folder)
    return [
        fault
        for number in range(len(found.shards))
        for fault in audit.shard_faults(dataset.folder, found, number)
    ]


def damage(path, *places):
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 4
    path.write_bytes(bytes(content))


def shard(dataset, number):
    return dataset.folder / f"set-0000{number}-of-00003.tfrecord"


def test_a_whole_dataset_has_no_fault(dataset, capsys):
    assert faults(dataset) == []
    assert verify.main([str(dataset.folder), "--workers", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"no fault in 12 rows of 1 dataset: {dataset.folder}\n")


def test_every_damaged_row_is_told(dataset, capsys):
    size = shard(dataset, 1).stat().length // 4
    damage(shard(dataset, 1), 20, 2 * size + 30, 3 * size + 5)
    damage(shard(dataset, 2), 4 * size - 1)
    found = faults(dataset)
    rows = [fault for fault in found if "is damaged" in fault]
    assert [fault.split("/")[-1].split(" is")[0] for fault in rows] == [
        "set-00001-of-00003.tfrecord row 0",
        "set-00001-of-00003.tfrecord row 2",
        "set-00001-of-00003.tfrecord row 3",
        "set-00002-of-00003.tfrecord row 3",
    ]
    # Besides, the digests of both shards.
    assert len(found) == 6
    with pytest.raises(RecordsError, match="^6 faults"):
        verify.main([str(dataset.folder), "--workers", "2"])
    assert capsys.readouterr().out.splitlines() == [f"fault: {fault}" for fault in found]


def test_missing_and_truncated_shards(dataset):
    shard(dataset, 0).unlink()
    path = shard(dataset, 2)
    path.write_bytes(path.read_bytes()[:-3])
    found = faults(dataset)
    assert found[0].endswith("set-00000-of-00003.tfrecord is missing")
    assert "bytes, but its manifest states" in found[1]
    assert "digest differs" in found[2]
    assert "set-00002-of-00003.tfrecord row 3 is damaged" in found[3]
    assert len(found) == 4


def test_a_manifest_edited_by_hand_is_a_fault(dataset, capsys):
    path = dataset.folder / manifest.FILE
    path.write_text(path.read_text().replace('"rows": 4', '"rows": 3', 1))
    with pytest.raises(RecordsError, match="^1 faults; restore the files"):
        verify.main([str(dataset.folder), "--workers", "1"])
    assert f"fault: {path} " in capsys.readouterr().out


def test_an_index_of_another_shard_does_not_hide_what_the_shard_holds(dataset):
    first, second = (dataset.folder / f"set-0000{n}-of-00003.index.npy" for n in (0, 1))
    second.write_bytes(first.read_bytes())
    damage(shard(dataset, 1), 20)
    found = faults(dataset)
    assert "set-00001-of-00003.index.npy is not the index" in found[1]
    assert "record 0 (at byte 0) fails its checksum" in found[2]
    second.unlink()
    assert "set-00001-of-00003.index.npy is missing" in faults(dataset)[1]


def sealed(folder, rows, index=None, change=None, **arguments):
    """Writes a dataset whose digests all fit, however wrong its content; returns its faults."""
    info = shards_lib.write_shard(folder, "x", index=0, of=1, records=rows)
    if change:
        entries = np.load(folder / info.index_file).copy()
        change(entries)
        with (folder / info.index_file).open("wb") as stream:
            np.save(stream, entries)
        digest = files.digest_file(folder / info.index_file)
        info = dataclasses.replace(info, index_digest=digest)
    arguments = {"max_length": 8, "task": "classification", "labels": LABELS} | arguments
    found = shards_lib.finish(folder, [info], name="x", **arguments)
    return [fault.split(".tfrecord ")[-1] for fault in audit.shard_faults(folder, found, 0)]


def test_content_that_is_wrong_under_digests_that_fit(tmp_path, record, vocabulary):
    rows = [record(0, 4, label=1), record(1, 4, label=2), record(29522, 3, label=0)]
    assert sealed(tmp_path / "a", rows, tokenizer=vocabulary) == [
        "row 1 has label 2, but there are 2 labels",
        "row 2 has a token outside the vocabulary of 30522",
    ]
    rows = [record(0, 4, label=float("nan")), record(1, 4, label=0.5)]
    assert sealed(tmp_path / "b", rows, tokenizer=vocabulary, task="regression", labels=()) == [
        "row 0 has a label that is not finite"
    ]
    rows = [record(0, 4, label=(0, 2)), record(1, 4, label=(1, 0, 1))]
    assert sealed(tmp_path / "c", rows, tokenizer=vocabulary, task="multilabel") == [
        "row 0 has labels that are not 0 or 1",
        "row 1 has 3 labels",
    ]


@pytest.mark.parametrize("field", [name for name in shards.INDEX.names if name != "tokens"])
def test_an_index_that_lies_under_a_digest_that_fits(tmp_path, record, vocabulary, field):
    segments = np.array([0, 0, 1, 1])
    rows = [record(n, 4, segment_ids=segments, label=1, next_sentence=1) for n in range(3)]

    def lie(entries):
        entries[field][1] += 1

    found = sealed(tmp_path, rows, tokenizer=vocabulary, change=lie)
    assert found and all("row 1 " in fault or "row 2 does not follow" in fault for fault in found)


# ---- logit stores ------------------------------------------------------------------------------


@pytest.fixture
def store(dataset, tmp_path):
    """A whole store for the dataset."""
    values = np.arange(24, dtype=np.float32).reshape(12, 2)
    tiny.logit_store(tmp_path / "store", dataset, values, labels=LABELS)
    return tmp_path / "store"


def test_a_whole_store_and_a_damaged_one(dataset, store, capsys):
    arguments = [str(dataset.folder), "--workers", "1", "--logits", str(store)]
    assert verify.main(arguments) == 0
    path = store / "set-00001-of-00003.tfrecord"
    payloads = [frame.payload for frame in tfrecord.read_frames(path)]
    payloads[0], payloads[3] = payloads[3], payloads[0]
    path.write_bytes(b"".join(tfrecord.frame(p, tfrecord.crc32c(p)) for p in payloads))
    damage(store / "set-00002-of-00003.tfrecord", 20)
    capsys.readouterr()
    with pytest.raises(LogitsError, match="^5 faults"):
        verify.main(arguments)
    told = capsys.readouterr().out
    assert told.count("digest differs") == 2
    assert "set-00001-of-00003.tfrecord row 0 belongs to a different example" in told
    assert "set-00001-of-00003.tfrecord row 3 belongs to a different example" in told
    assert "set-00002-of-00003.tfrecord row 0 is damaged" in told


def test_a_store_of_a_dataset_that_was_not_given(dataset, store, make_dataset, record):
    other = make_dataset([record(1, 4)], name="other")
    with pytest.raises(LogitsError, match="was made for none of the datasets given"):
        verify.main([str(other.folder), "--workers", "1", "--logits", str(store)])


def test_a_store_in_place_of_a_dataset_is_told_from_a_damaged_one(dataset, store):
    with pytest.raises(RecordsError, match="store is a logit store, not a dataset; .*after --log"):
        verify.main([str(store), "--workers", "1"])
    with pytest.raises(RecordsError, match="set is a dataset, not a logit store; name datasets fi"):
        verify.main([str(dataset.folder), "--logits", str(dataset.folder)])


def test_the_folder_of_a_stage_leads_to_its_dataset_and_store(dataset, store):
    for made, kind, before in (
        (dataset.folder, "records", []),
        (store, "logits", [str(dataset.folder), "--logits"]),
    ):
        stage = store.parent / f"{kind}-1f0c9a7e42bd"
        shutil.copytree(made, stage / kind)
        with pytest.raises(RecordsError, match=f"json does not exist; name {stage / kind}$"):
            verify.main([*before, str(stage)])
        with pytest.raises(
            RecordsError, match="none/manifest.json does not exist; name the folder"
        ):
            verify.main([*before, "none"])


def test_the_last_line_counts_what_was_read(dataset, store, tmp_path, capsys):
    other = tiny.dataset(tmp_path / "other", rows=4)
    folders = [str(dataset.folder), str(other.folder)]
    assert verify.main([*folders, "--workers", "1", "--logits", str(store)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"no fault in 16 rows of 2 datasets and 1 logit store: {', '.join(folders)}"


def test_stores_of_undamaged_datasets_are_read_beside_a_damaged_one(
    dataset, store, tmp_path, capsys
):
    other = tiny.dataset(tmp_path / "other", rows=4)
    tiny.logit_store(tmp_path / "others", other, np.zeros((4, 2), np.float32))
    damage(shard(dataset, 1), 20)
    damage(tmp_path / "others" / "other-00001-of-00002.tfrecord", 20)
    stores = ["--logits", str(store), str(tmp_path / "others")]
    with pytest.raises(RecordsError, match="^2 faults and 2 in logit stores; restore"):
        verify.main([str(dataset.folder), str(other.folder), "--workers", "1", *stores])
    told = capsys.readouterr()
    assert "store is left out: " in told.err and "has faults" in told.err
    assert "other-00001-of-00002.tfrecord row 0 is damaged" in told.out


def test_a_store_that_is_cut_short_hides_no_fault_of_another(dataset, store, tmp_path, capsys):
    tiny.logit_store(tmp_path / "short", dataset, np.zeros((12, 2), np.float32))
    cut = tmp_path / "short" / "set-00001-of-00003.tfrecord"
    cut.write_bytes(cut.read_bytes()[:-4])
    damage(store / "set-00000-of-00003.tfrecord", 20)
    folders = [str(dataset.folder), "--workers", "1", "--logits", str(tmp_path / "short")]
    with pytest.raises(LogitsError, match="^3 faults; restore"):
        verify.main([*folders, str(store)])
    told = capsys.readouterr().out
    assert "short/set-00001-of-00003.tfrecord" in told
    assert "store/set-00000-of-00003.tfrecord row 0 is damaged" in told
    with pytest.raises(RecordsError, match="none/manifest.json does not exist; name the folder"):
        verify.main([*folders, str(tmp_path / "none")])
    assert not capsys.readouterr().out


def test_a_sample_is_computed_again_with_the_teacher(tmp_path, capsys):
    dataset = tiny.dataset(tmp_path / "set", rows=12, shards=3)
    teacher = tiny_teacher(tmp_path / "teacher", seed=0)
    mesh = make_mesh(config.Mesh(data=1), jax.local_devices()[:1])
    predict = make_predict(teacher, mesh, dtype="float32", states=(0,))
    found = dataset.gather(np.arange(12))
    batch = put_batch(batches.pad(found, length=16, pad_id=0, sep_id=3), mesh)
    values = {name: np.array(array) for name, array in predict(batch).items()}
    settings = {"teacher": teacher.fingerprint, "states": (0,)}
    tiny.logit_store(tmp_path / "good", dataset, values, **settings)
    values["logits"][5] += 0.01
    values["states"][9, 0, 7] += 0.02
    tiny.logit_store(tmp_path / "bad", dataset, values, **settings)
    arguments = [str(dataset.folder), "--workers", "1", "--teacher", str(tmp_path / "teacher")]
    assert verify.main([*arguments, "--logits", str(tmp_path / "good")]) == 0
    capsys.readouterr()
    with pytest.raises(LogitsError, match="^2 faults"):
        verify.main([*arguments, "--logits", str(tmp_path / "bad")])
    told = capsys.readouterr().out
    assert "set-00001-of-00003.tfrecord row 1 is 0.01 from the teacher's output (logits)" in told
    assert "set-00002-of-00003.tfrecord row 1 is 0.02 from the teacher's output (states)" in told
    tiny_teacher(tmp_path / "teacher", seed=1)
    with pytest.raises(LogitsError, match="good was made by a model other than .*teacher"):
        verify.main([*arguments, "--logits", str(tmp_path / "good")])


def test_a_sample_is_cut_where_the_store_was(tmp_path):
    dataset = tiny.dataset(tmp_path / "set", rows=12, labelled=False)
    tiny_teacher(tmp_path / "teacher", seed=0)
    given = {"teacher": "teacher", "records": "set", "output": "store"}
    arguments = [f"--{name}={tmp_path / value}" for name, value in given.items()]
    assert label.main([*arguments, "--batch=8", "--lengths=5"]) == 0
    checked = [str(dataset.folder), "--workers", "1", "--logits", str(tmp_path / "store")]
    checked += ["--teacher", str(tmp_path / "teacher"), "--tolerance", "1e-7"]
    assert verify.main(checked) == 0
    path = tmp_path / "store" / "manifest.json"
    declared = json.loads(path.read_text())
    declared["settings"]["lengths"] = [16]  # uncut, the teacher's outputs are others
    path.write_text(json.dumps(declared))
    with pytest.raises(LogitsError, match="faults; restore"):
        verify.main(checked)


def test_a_teacher_that_says_nan_is_a_fault(tmp_path, capsys):
    dataset = tiny.dataset(tmp_path / "set", rows=4)
    teacher = tiny_teacher(tmp_path / "teacher", seed=0, shift=3e38)  # overflows
    values = np.zeros((4, 2), np.float32)
    tiny.logit_store(tmp_path / "store", dataset, values, teacher=teacher.fingerprint)
    arguments = [str(dataset.folder), "--workers", "1", "--logits", str(tmp_path / "store")]
    with pytest.raises(LogitsError, match="^4 faults"):
        verify.main([*arguments, "--teacher", str(tmp_path / "teacher")])
    assert "row 0 is nan from the teacher's output (logits)" in capsys.readouterr().out


def tiny_teacher(folder, seed, shift=0.0):
    """Writes and returns a model of one layer with random weights."""
    shape = sizes.BertConfig(vocab_size=64, hidden=8, layers=1, heads=1, intermediate=16)
    one = np.ones((1, 4), np.int32)
    params = tiny.weights(TaskModel(shape, 2).init, one, one, one, seed=seed)["params"]
    params = jax.tree.map(lambda leaf: leaf + shift, params)
    settings = {"labels": tiny.LABELS, "task": "classification", "add": tiny.tokenizer}
    hf.save(folder, params, shape, **settings)
    return hf.load(folder)


def test_the_command_exits_0_or_2(dataset):
    command = [sys.executable, "-m", "pd_jax.tools.verify", str(dataset.folder)]
    good = subprocess.run(command, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert "12 rows in 3 shards" in good.stderr
    damage(shard(dataset, 2), 30)
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "error: 2 faults; restore the files named above" in bad.stderr
    assert "set-00002-of-00003.tfrecord row 0 is damaged" in bad.stdout
    missing = subprocess.run([*command, str(dataset.folder / "x")], capture_output=True, text=True)
    assert missing.returncode == 2 and "manifest.json does not exist" in missing.stderr
