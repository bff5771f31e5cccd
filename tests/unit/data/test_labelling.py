"""A store is made shard by shard, and an interrupted labelling ends as an undisturbed one."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from pd_jax.data.building import places
from pd_jax.data.logits import labelling
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, LogitsError, RecordsError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.tools import command, verify
from pd_jax.tools import label as label_tool
from tests import tiny

ROWS, SHARDS = 60, 5
VALUES = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


@pytest.fixture
def dataset(tmp_path):
    return tiny.dataset(tmp_path / "set", rows=ROWS, labelled=False, shards=SHARDS)


def teacher(**changes):
    settings = {"fingerprint": "a", "task": "classification", "labels": tiny.LABELS}
    return labelling.Teacher(**{**settings, **changes})


def run(folder, dataset, *, asked=None, answers=None, **changes):
    """Labels with VALUES in portions of 7 from the last row on; notes the rows asked for."""

    def portions(rows):
        if asked is not None:
            asked.extend(rows.tolist())
        for part in np.array_split(rows[::-1], -(-len(rows) // 7)):
            yield part, {"logits": VALUES[part]}

    return labelling.label_dataset(
        folder, dataset, teacher=teacher(**changes), answers=answers or portions, title="labelling"
    )


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def test_portions_in_any_order_come_back_row_for_row(dataset, tmp_path):
    made = run(tmp_path / "store", dataset)
    assert (made.rows, made.outputs, len(made.shards)) == (ROWS, 2, SHARDS)
    ids = dataset.gather(np.arange(ROWS)).example_ids
    found = LogitStore.open(tmp_path / "store").read(np.arange(ROWS), ids)["logits"]
    np.testing.assert_array_equal(found, VALUES)


def test_only_what_is_missing_or_damaged_is_asked_for(dataset, tmp_path, capsys):
    folder = tmp_path / "store"
    run(folder, dataset)
    whole = content(folder)
    asked: list[int] = []
    run(folder, dataset, asked=asked)
    assert asked == [] and content(folder) == whole
    first, second, third = sorted(folder.glob("*.tfrecord"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    third.with_name(third.name.replace(".tfrecord", ".shard.json")).unlink()
    capsys.readouterr()
    run(folder, dataset, asked=asked)
    assert asked == list(range(36)) and content(folder) == whole
    assert "labelling: 60 rows in" in capsys.readouterr().err


def test_an_unfinished_store_of_another_teacher_is_made_anew(dataset, tmp_path):
    folder = tmp_path / "store"
    asked: list[int] = []

    def fails_at_the_third(rows):
        if rows[0] >= 24:
            raise LogitsError("gone")
        return [(rows, {"logits": VALUES[rows]})]

    with pytest.raises(LogitsError, match="gone"):
        run(folder, dataset, answers=fails_at_the_third)
    assert not (folder / "manifest.json").exists()
    run(folder, dataset, asked=asked, settings={"lengths": [8]})
    assert asked == list(range(ROWS))


def test_a_finished_store_of_another_teacher_is_refused(dataset, tmp_path):
    run(tmp_path / "store", dataset)
    whole = content(tmp_path / "store")
    for changes in ({"fingerprint": "b"}, {"labels": ("x", "y")}, {"settings": {"dtype": "f"}}):
        with pytest.raises(LogitsError, match="finished store of another teacher, dataset or"):
            run(tmp_path / "store", dataset, **changes)
    assert content(tmp_path / "store") == whole


def test_what_is_in_the_place_of_a_store_is_kept(dataset, tmp_path):
    other = tiny.dataset(tmp_path / "other", rows=ROWS, labelled=False, shards=2, seed=1)
    run(tmp_path / "store", dataset)
    whole = content(tmp_path / "store")
    with pytest.raises(LogitsError, match="finished store of another teacher, dataset or"):
        run(tmp_path / "store", other)
    assert content(tmp_path / "store") == whole
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "an application"}')
    for folder in (other.folder, tmp_path / "site"):
        before = (folder / "manifest.json").read_bytes()
        with pytest.raises(LogitsError, match="manifest.json is of something else, which would be"):
            run(folder, dataset)
        assert (folder / "manifest.json").read_bytes() == before
    with pytest.raises(RecordsError, match="manifest.json is of something else, which would be"):
        places.check(tmp_path / "store", load_tokenizer(other.folder / "tokenizer"))
    assert content(tmp_path / "store") == whole


def test_the_manifest_says_what_the_teacher_was_asked_with(dataset, tmp_path):
    made = run(tmp_path / "store", dataset, settings={"lengths": [8], "tokenizer": "t"})
    assert LogitStore.open(tmp_path / "store").manifest.settings == made.settings
    assert made.settings == {"lengths": [8], "tokenizer": "t"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda rows: [(rows[1:], rows[1:])], "00000-of-00005.tfrecord row 0 was answered 0 times"),
        (lambda rows: [(rows, rows)] * 2, "row 0 was answered 2 times"),
        (lambda rows: [(rows + 60, rows)], "or rows that were not requested"),
        (lambda rows: [(rows, rows[:3])], r"\(3, 2\) logits for 12 rows of \(2,\) each"),
        (lambda rows: [(rows, rows + 1000)], "row 0 has a logit that is not finite"),
    ],
)
def test_a_teacher_that_does_not_answer_row_for_row(dataset, tmp_path, answers, message):
    endless = np.full((1100, 2), np.inf, np.float32)
    values = np.concatenate([VALUES, endless])

    def answered(rows):
        return [(some, {"logits": values[of]}) for some, of in answers(rows)]

    with pytest.raises(LogitsError, match=message):
        run(tmp_path / "store", dataset, answers=answered)
    assert not list((tmp_path / "store").glob("*"))


def test_a_bert_is_not_asked_for_more_tokens_than_it_can_read(dataset, tmp_path):
    trained(tmp_path / "teacher")
    with pytest.raises(ConfigError, match="teacher can read 512 tokens, but rows are cut at 513"):
        label_tool.main([*arguments(tmp_path, "store"), "--lengths=16,513"])
    assert not list((tmp_path / "store").glob("*.tfrecord"))


def test_what_labelling_would_not_use_or_would_overwrite_is_refused(dataset, tmp_path):
    trained(tmp_path / "teacher")
    (tmp_path / "a.txt").write_text("one text\n")
    masked = "is for classifiers, and --top-k for a masked language model; give one"
    for given, message in (
        (["--input", str(tmp_path / "a.txt")], "--input has no effect: .*teacher has the vocab"),
        (["--input", "a.txt", "--top-k=2"], f"--input {masked}"),
        (["--labels=a,b", "--top-k=2"], f"--labels {masked}"),
        (["--states=0", "--top-k=2"], f"--states {masked}"),
        (["--output", str(tmp_path / "teacher")], "teacher is the teacher that is read; name"),
        (["--output", str(dataset.folder)], "set is the dataset that is read; name another"),
    ):
        with pytest.raises(ConfigError, match=message):
            label_tool.main([*arguments(tmp_path, "store"), *given])


def test_a_smaller_batch_goes_on_with_what_is_labelled(dataset, tmp_path):
    trained(tmp_path / "teacher")
    folder = tmp_path / "store"
    assert label_tool.main(arguments(tmp_path, "store")) == 0
    kept = sorted(folder.glob("*.tfrecord"))
    kept.pop().unlink()
    before = [path.stat().st_mtime_ns for path in kept]
    assert label_tool.main([*arguments(tmp_path, "store"), "--batch=16"]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert LogitStore.open(folder).manifest.settings == {"lengths": [8, 16], "dtype": "float32"}


def test_rows_are_not_cut_unless_asked_or_the_teacher_reads_less(dataset, tmp_path):
    longest = int(dataset.lengths.max())
    assert label_tool._lengths(longest, str(tmp_path / "none")) == (longest,)
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "max_position_embeddings": 9}')
    assert label_tool._lengths(longest, str(tmp_path)) == (9,)
    (tmp_path / "config.json").write_text(
        '{"model_type": "roberta", "max_position_embeddings": 512}'
    )
    assert label_tool._lengths(longest, str(tmp_path)) == (longest,)


def test_texts_are_read_up_to_what_their_teacher_can_read(tmp_path):
    everything = (16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 384, 512)
    assert label_tool._lengths(None, str(tmp_path / "none")) == everything
    (tmp_path / "config.json").write_text(
        '{"model_type": "roberta", "max_position_embeddings": 514}'
    )
    assert label_tool._lengths(None, str(tmp_path)) == everything
    (tmp_path / "config.json").write_text(
        '{"model_type": "roberta", "max_position_embeddings": 40}'
    )
    assert label_tool._lengths(None, str(tmp_path)) == (16, 32, 40)


# ---- the command, and SIGKILL ------------------------------------------------------------------


def trained(folder):
    """A model folder with random weights, its tokenizer beside them."""
    shape = sizes.BertConfig(vocab_size=64, hidden=16, layers=1, heads=2, intermediate=32)
    one = np.ones((1, 4), np.int32)
    params = tiny.weights(TaskModel(shape, 2).init, one, one, one)["params"]
    hf.save(folder, params, shape, labels=tiny.LABELS, task="classification", add=tiny.tokenizer)


def arguments(tmp_path, output: str) -> list[str]:
    named = {"teacher": "teacher", "records": "set", "output": output}
    return [
        *(f"--{name}={tmp_path / value}" for name, value in named.items()),
        "--batch=8",
        "--lengths=8,16",
    ]


def test_a_labelling_killed_in_a_shard_and_repeated_equals_an_undisturbed_one(dataset, tmp_path):
    trained(tmp_path / "teacher")
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pd_jax.data.logits import logit_shards
        from pd_jax.tools import label
        checksums, shards = logit_shards.Layout.checksums, []
        def dies_in_the_third(layout, records):
            shards.append(records)
            if len(shards) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return checksums(layout, records)
        logit_shards.Layout.checksums = dies_in_the_third
        label.main(sys.argv[1:])
        """
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", program, *arguments(tmp_path, "killed")]
    ended = subprocess.run(command, env=environment, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed").glob("*.shard.json"))) == 2
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert label_tool.main(arguments(tmp_path, "killed")) == 0
    assert label_tool.main(arguments(tmp_path, "whole")) == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_shards_without_rows_are_labelled_and_verified_like_others(tmp_path):
    dataset = tiny.text_dataset(tmp_path / "set", [("w1 w2",), ("w3",), ("w4 w5",)], shards=8)
    assert sorted(shard.rows for shard in dataset.manifest.shards)[0] == 0
    tiny.logit_store(tmp_path / "store", dataset, VALUES[:3])
    rows = np.arange(3)
    store = LogitStore.open(tmp_path / "store")
    found = store.read(rows, dataset.gather(rows).example_ids)["logits"]
    np.testing.assert_array_equal(found, VALUES[:3])
    assert [shard.rows for shard in store.manifest.shards] == [
        shard.rows for shard in dataset.manifest.shards
    ]
    where = [str(tmp_path / "set"), "--logits", str(tmp_path / "store")]
    assert command.run(verify.main, where) == 0
