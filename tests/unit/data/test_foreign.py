"""Records of other programs: the same rows, without padding and static masks."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from pd_jax.data.records import audit, foreign
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import ConfigError, RecordsError
from pd_jax.tools import command, import_records

# [CLS] 7 8 [SEP] 9 10 [SEP], with 8 and 9 masked: one as [MASK], one as a random token.
ROW = {
    "input_ids": [101, 7, 103, 102, 55, 10, 102, 0, 0, 0],
    "input_mask": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "segment_ids": [0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
    "masked_lm_positions": [2, 4, 0, 0],
    "masked_lm_ids": [8, 9, 0, 0],
    "masked_lm_weights": [1.0, 1.0, 0.0, 0.0],
    "next_sentence_labels": [1],
}
TOKENS = [101, 7, 8, 102, 9, 10, 102]
SEGMENTS = [0, 0, 0, 0, 1, 1, 1]
RENAMED = {"input_ids": "input_word_ids", "segment_ids": "input_type_ids"}


def payload(features):
    message = example._example_class()()
    for name, values in features.items():
        kind = {float: "float_list", bytes: "bytes_list"}.get(type(values[0]), "int64_list")
        getattr(message.features.feature[name], kind).value.extend(values)
    encoded = message.SerializeToString()
    return tfrecord.frame(encoded, tfrecord.crc32c(encoded))


def written(path, *rows, zipped=False):
    content = b"".join(map(payload, rows))
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.fixture
def imported(tmp_path, vocabulary):
    """Returns a function that imports files and opens the dataset."""

    def run(*paths, **arguments):
        folder = tmp_path / "imported"
        foreign.import_records(paths, folder, name="x", tokenizer=vocabulary, **arguments)
        return Dataset.open(folder)

    return run


def rows(dataset):
    return dataset.gather(np.arange(len(dataset)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_pretraining_records_of_either_program(tmp_path, imported, zipped, renamed):
    row = {RENAMED.get(name, name) if renamed else name: values for name, values in ROW.items()}
    other = row | {"next_sentence_labels": [0]}
    dataset = imported(written(tmp_path / "file", row, other, zipped=zipped))
    found = rows(dataset)
    assert found.tokens.tolist() == TOKENS * 2
    assert found.segments.tolist() == SEGMENTS * 2
    assert found.next_sentence.tolist() == [1, 0]
    assert dataset.manifest.max_length == 7
    assert audit.shard_faults(dataset.folder, dataset.manifest, 0) == []


def test_masks_without_weights_and_rows_without_masks(tmp_path, imported):
    weightless = {name: values for name, values in ROW.items() if name != "masked_lm_weights"}
    plain = {"input_ids": [101, 7, 8, 102], "next_sentence_labels": [0]}
    padded = {"input_ids": [101, 7, 102, 0, 0], "next_sentence_labels": [0]}
    found = rows(imported(written(tmp_path / "file", weightless, plain, padded)))
    assert found.tokens.tolist() == [*TOKENS, 101, 7, 8, 102, 101, 7, 102]
    assert found.lengths.tolist() == [7, 4, 3]


def test_files_become_shards_and_ids_follow_the_tokens(tmp_path, imported):
    first = written(tmp_path / "a", ROW)
    second = written(tmp_path / "b", ROW, ROW | {"segment_ids": [0] * 10})
    dataset = imported(first, second, workers=2)
    assert [shard.rows for shard in dataset.manifest.shards] == [1, 2]
    ids = rows(dataset).example_ids
    assert ids[0].tolist() == ids[1].tolist() != ids[2].tolist()


def task_row(**changes):
    row = {
        "input_ids": [101, 7, 102, 0],
        "input_mask": [1, 1, 1, 0],
        "segment_ids": [0, 0, 0, 0],
        "label_ids": [1],
        "is_real_example": [1],
    }
    return row | changes


def test_task_records_and_rows_that_only_fill_a_batch(tmp_path, imported):
    filler = task_row(is_real_example=[0])
    path = written(tmp_path / "file", task_row(), filler, task_row(label_ids=[0]))
    dataset = imported(path, task="classification", labels=("no", "yes"))
    assert rows(dataset).labels.tolist() == [1, 0]
    assert not dataset.manifest.pairs


def test_regression_and_multilabel_records(tmp_path, imported, vocabulary):
    path = written(tmp_path / "file", task_row(label_ids=[2.5]), task_row(label_ids=[0.5]))
    assert rows(imported(path, task="regression")).labels.tolist() == [2.5, 0.5]
    path = written(tmp_path / "several", task_row(label_ids=[1, 0, 1]))
    several = imported(path, task="multilabel", labels=("a", "b", "c"))
    assert rows(several).labels.tolist() == [[1, 0, 1]]
    assert rows(imported(path)).labels is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input_ids": [5, 7, 102, 0]}, r"begins with 5, but the tokenizer's \[CLS\] is 101"),
        ({"input_ids": [101, 40000, 102, 0]}, "token 40000 is outside the vocabulary of 30522"),
        ({"input_ids": [101, 1 << 40, 102, 0]}, f"token {1 << 40} is outside the vocabulary"),
        ({"input_ids": [101, -5, 102, 0]}, "token -5 is outside the vocabulary"),
        ({"input_ids": [b"text"]}, "its input_ids are bytes, not numbers; write them as an int64"),
        ({"input_mask": [b"1"] * 4}, "its input_mask are bytes"),
        ({"input_ids": [101, 103, 102, 0]}, r"has \[MASK\] in a place for which masked_lm_ids"),
        ({"input_mask": [1, 1]}, "4 ids, 4 segments and 2 mask values"),
        ({"label_ids": [1, 0]}, "it has 2 labels, but task 'classification' needs 1"),
        ({"label_ids": [2]}, "has label 2, but task 'classification' with 2 labels allows 0"),
        ({"label_ids": [0.5]}, "has label 0.5, but task 'classification' with 2 labels"),
        ({"masked_lm_positions": [9], "masked_lm_ids": [3]}, "is beyond the end"),
        (
            {"masked_lm_positions": [-3], "masked_lm_ids": [3], "masked_lm_weights": [1.0]},
            "is beyond the end",
        ),
        ({"masked_lm_positions": [1], "masked_lm_ids": [3, 4]}, "differ in length"),
    ],
)
def test_records_that_do_not_fit_are_named(tmp_path, imported, changes, fault):
    path = written(tmp_path / "file", task_row(), task_row(**changes))
    with pytest.raises(RecordsError, match=f"file record 1: .*{fault}"):
        imported(path, task="classification", labels=("no", "yes"))
    assert not (tmp_path / "imported" / "manifest.json").exists()


def test_a_segment_is_0_or_1_however_large(tmp_path, imported):
    path = written(tmp_path / "file", task_row(segment_ids=[0, 1 << 40, 0, 0]))
    with pytest.raises(RecordsError, match="file record 0: its segment_ids must be 0 or 1, not"):
        imported(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"1"])
def test_values_that_are_no_numbers_are_named(tmp_path, imported, value):
    path = written(tmp_path / "file", task_row(label_ids=[value]))
    with pytest.raises(RecordsError, match="file record 0: it.*(not a number that|bytes, not num)"):
        imported(path, task="regression")


@pytest.mark.parametrize("name", ["input_ids", "segment_ids"])
def test_floats_are_no_tokens(tmp_path, imported, name):
    row = {"input_ids": [2, 5, 3], "segment_ids": [0, 0, 0]}
    path = written(tmp_path / "file", {**row, name: [0.5, 1.0, 1.0]})
    with pytest.raises(RecordsError, match=f"file record 0: its {name} are floats; write them as"):
        imported(path)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1, 0], "it has 2 labels, but task 'multilabel' needs 3; give the task and the labels"),
        ([1, 0, 1, 0], "it has 4 labels, but task 'multilabel' needs 3"),
        ([0, 2, 1], "it has label 2, but task 'multilabel' with 3 labels allows 0 to 1"),
    ],
)
def test_several_labels_that_do_not_fit_are_named(tmp_path, imported, values, fault):
    path = written(tmp_path / "file", task_row(label_ids=[1, 0, 1]), task_row(label_ids=values))
    with pytest.raises(RecordsError, match=f"file record 1: {fault}"):
        imported(path, task="multilabel", labels=("a", "b", "c"))
    assert not (tmp_path / "imported" / "manifest.json").exists()


def test_a_shard_imported_with_more_labels_is_not_kept_for_fewer(tmp_path, imported):
    path = written(tmp_path / "file", task_row(label_ids=[2]))
    imported(path, task="classification", labels=("a", "b", "c"))
    with pytest.raises(RecordsError, match="file record 0: it has label 2"):
        imported(path, task="classification", labels=("a", "b"))


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_task_without_names_of_labels_is_refused_before_any_work(tmp_path, imported, task):
    with pytest.raises(ConfigError, match=f"task '{task}' needs the names of its labels"):
        imported(written(tmp_path / "file", task_row()), task=task)
    assert not (tmp_path / "imported").exists()


def test_records_without_tokens_and_damaged_files_are_named(tmp_path, imported):
    path = written(tmp_path / "file", {"image": [1, 2]})
    with pytest.raises(RecordsError, match="file record 0: it has none of input_ids, .*image"):
        imported(path)
    path.write_bytes(payload(ROW) + payload(ROW)[:-5])
    with pytest.raises(RecordsError, match="file record 1 .* is cut short"):
        imported(path)


def test_an_import_goes_on_where_it_was(tmp_path, imported):
    first, second = written(tmp_path / "a", ROW), tmp_path / "b"
    second.write_bytes(b"no records at all")
    with pytest.raises(RecordsError, match="b record 0"):
        imported(first, second)
    shard = tmp_path / "imported" / "x-00000-of-00002.tfrecord"
    before = shard.stat().st_mtime_ns
    written(second, ROW)
    assert len(imported(first, second)) == 2
    assert shard.stat().st_mtime_ns == before
    # The same name with another content is imported anew.
    written(first, ROW, ROW)
    assert len(imported(first, second)) == 3


def test_the_command(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    row = {"input_ids": [2, 5, 6, 3, 0], "input_mask": [1, 1, 1, 1, 0]}
    written(tmp_path / "part-0", row)
    written(tmp_path / "part-1", row, row)
    command = [sys.executable, "-m", "pd_jax.tools.import_records"]
    command += ["--tokenizer", str(tmp_path / "vocab.txt"), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, str(tmp_path / "part-*")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"made a dataset of 3 rows and 12 tokens in {tmp_path / 'out'}\n"
    assert Dataset.open(tmp_path / "out").gather(np.array([2])).tokens.tolist() == [2, 5, 6, 3]
    assert (tmp_path / "out" / "tokenizer" / "vocab.txt").exists()
    missing = subprocess.run([*command, str(tmp_path / "none-*")], capture_output=True, text=True)
    assert missing.returncode == 2 and "none-* matches no file" in missing.stderr


def test_the_command_takes_the_names_of_labels_as_other_commands_do(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    written(tmp_path / "file", task_row(input_ids=[2, 5, 3, 0]))
    arguments = ["--tokenizer", str(tmp_path / "vocab.txt"), "--output", str(tmp_path / "out")]
    labels = ["--task", "classification", "--labels", "no, yes", str(tmp_path / "file")]
    assert command.run(import_records.main, [*arguments, *labels]) == 0
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.manifest.labels == ("no", "yes")
    assert rows(dataset).labels.tolist() == [1]


def test_the_command_refuses_a_file_that_is_named_twice(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    written(tmp_path / "part-0", task_row(input_ids=[2, 5, 3, 0]))
    (tmp_path / "part-1").symlink_to(tmp_path / "part-0")
    arguments = ["--tokenizer", str(tmp_path / "vocab.txt"), "--output", str(tmp_path / "out")]
    for named, message in (
        (["part-*"], f"{tmp_path / 'part-1'} is the same file as {tmp_path / 'part-0'}, and would"),
        (["part-0", "part-?"], f"{tmp_path / 'part-0'} is named twice, and would be read twice"),
    ):
        given = [str(tmp_path / name) for name in named]
        assert command.run(import_records.main, [*arguments, *given]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_the_command_keeps_a_tokenizer_that_is_no_datasets(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    written(tmp_path / "part-0", task_row(input_ids=[2, 5, 3, 0]))
    kept = tmp_path / "out" / "tokenizer" / "vocab.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nmine\n")
    arguments = ["--tokenizer", str(tmp_path / "vocab.txt"), "--output", str(tmp_path / "out")]
    assert command.run(import_records.main, [*arguments, str(tmp_path / "part-0")]) == 2
    told = capsys.readouterr().err
    assert f"{kept.parent} is another tokenizer, which the dataset's would replace" in told
    assert kept.read_text().endswith("mine\n")


@pytest.mark.parametrize("name", ["wiki/en", ".hidden", "a\\b", "two\nlines"])
def test_a_name_that_no_file_can_have_is_refused_before_any_work(tmp_path, capsys, name):
    arguments = [str(tmp_path / "a"), "--tokenizer", "none", "--output", str(tmp_path / "out")]
    assert command.run(import_records.main, [*arguments, "--name", name]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: a dataset cannot have the name {name!r}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("linked", [False, True])
def test_files_that_their_own_shards_would_overwrite_are_refused(tmp_path, capsys, linked):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    folder = tmp_path / "out"
    folder.mkdir()
    shards = [folder / f"records-0000{index}-of-00002.tfrecord" for index in range(2)]
    for shard in shards:
        written(shard, {"input_ids": [2, 5, 6, 3]})
    before = [shard.read_bytes() for shard in shards]
    sources = [str(folder / "*.tfrecord")]
    if linked:
        (tmp_path / "link").symlink_to(shards[1])
        sources = [str(written(tmp_path / "a", ROW)), str(tmp_path / "link")]
    arguments = [*sources, "--tokenizer", str(tmp_path / "vocab.txt"), "--output", str(folder)]
    assert command.run(import_records.main, arguments) == 2
    assert "would be overwritten by a shard of dataset 'records'" in capsys.readouterr().err
    assert [shard.read_bytes() for shard in shards] == before
    assert len(list(folder.iterdir())) == 2
    assert command.run(import_records.main, [*arguments[-4:], "--name=b", str(shards[0])]) == 0
    assert [shard.read_bytes() for shard in shards] == before


def test_another_tokenizer_leaves_no_dataset_that_passes_for_whole(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    for name, pieces in (("right", words), ("wrong", [*"abcdef", *words[:5]])):
        (tmp_path / f"{name}.txt").write_text("\n".join(pieces) + "\n")
    path = written(tmp_path / "file", {"input_ids": [2, 5, 6, 3]})

    def run(tokenizer):
        arguments = [path, "--tokenizer", tmp_path / tokenizer, "--output", tmp_path / "out"]
        return command.run(import_records.main, list(map(str, arguments)))

    assert run("right.txt") == 0
    whole = (tmp_path / "out" / "manifest.json").read_bytes()
    assert run("wrong.txt") == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run("right.txt") == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == whole
    info = Dataset.open(tmp_path / "out").manifest.tokenizer
    assert load_tokenizer(tmp_path / "out" / "tokenizer").fingerprint == info.fingerprint


def test_array_records_are_read_by_number(tmp_path, imported):
    module = pytest.importorskip("array_record.python.array_record_module")
    path = tmp_path / "rows.array_record"
    writer = module.ArrayRecordWriter(str(path), "group_size:2,uncompressed")
    for number in range(5):
        arrays = {name: np.array(values) for name, values in ROW.items()}
        arrays |= {"masked_lm_weights": np.array(ROW["masked_lm_weights"], np.float32)}
        arrays |= {"next_sentence_labels": np.array([number % 2])}
        writer.write(example.encode(arrays).payload)
    writer.close()
    found = rows(imported(path))
    assert found.tokens.tolist() == TOKENS * 5
    assert found.next_sentence.tolist() == [0, 1, 0, 1, 0]
    content = bytearray(path.read_bytes())
    content[content.index(b"input_mask")] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RecordsError, match="rows.array_record is damaged or not an ArrayRecord"):
        imported(path)
    path.write_bytes(b"text")
    with pytest.raises(RecordsError, match="rows.array_record is damaged or not an ArrayRecord"):
        imported(path)
