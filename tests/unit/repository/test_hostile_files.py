"""Files made to do harm are refused in a sentence: nothing runs, hangs, grows or leads outside."""

import io
import json
import pathlib
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from pd_jax.data.records.shards import INDEX
from pd_jax.data.wire import tfrecord
from tests.fuzzing import data, guard, mutate
from tests.fuzzing.engine import check, fuzz
from tests.fuzzing.parsers import PARSERS

SLOW = ("checkpoint_note", "pipeline_record", "stage_result", "stage_config", "stage_metrics",
        "stage_spans", "tf1_index", "tf1_data", "foreign_records")  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_what_is_spoilt(name):
    outcome = fuzz(PARSERS[name], seed=0, executions=2 if name in SLOW else 20)
    assert outcome.executions >= 2
    assert not [finding.trace for finding in outcome.findings.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_what_is_spoilt_for_longer(name):
    outcome = fuzz(PARSERS[name], seed=1, seconds=20)
    assert not [finding.trace for finding in outcome.findings.values()]


# ---- the watch itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: (folder / ".." / "x").write_text("x"),
        lambda folder: pathlib.Path("/etc/passwd").read_text(),
        lambda folder: __import__("os").system("true"),
        lambda folder: __import__("subprocess").run([sys.executable, "-V"]),
        lambda folder: (folder / "../y").unlink(missing_ok=True),
    ],
)
def test_the_watch_sees_what_leads_outside(act, tmp_path):
    with pytest.raises(guard.Forbidden):
        with guard.watched(tmp_path):
            act(tmp_path)
    assert not (tmp_path.parent / "x").exists()


def test_the_watch_sees_memory_and_lets_the_folder_be(tmp_path):
    with guard.watched(tmp_path):
        (tmp_path / "x").write_text("x")
        np.ones(1 << 20)
    with pytest.raises(guard.Excess, match="MB of memory"):
        with guard.watched(tmp_path):
            np.ones(1 << 26)


# ---- what was found ----------------------------------------------------------------------------


def put(*keys, to):
    """Returns a change of a JSON value: what stands at these keys becomes `to`."""

    def change(value):
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


def drop(key):
    return lambda value: value.pop(key)


def fitting(name, value):
    """Returns a manifest or note as one who knows our digests would write it."""
    if name in ("dataset_manifest", "store_manifest"):
        fingerprint = {
            "dataset_manifest": data.dataset_fingerprint,
            "store_manifest": data.store_fingerprint,
        }[name]
        value["fingerprint"] = fingerprint(value)
    seals = ("dataset_manifest", "store_manifest", "shard_note", "store_note")
    return mutate.seal(value) if name in seals else json.dumps(value).encode()


OUTSIDE = "../set/set-00000-of-00002.tfrecord"
KEY = "classifier.bias"
FOUND_IN_JSON = [
    ("dataset_manifest", put("task", to="other"), "task is not valid"),
    ("dataset_manifest", put("rows", to="8"), "rows is not valid"),
    ("dataset_manifest", put("shards", 0, "file", to=OUTSIDE), "lists shard files with unexpected"),
    ("dataset_manifest", put("shards", 0, "file", to=7), "file is not valid"),
    ("dataset_manifest", put("name", to="../set"), "lists shard files with unexpected names"),
    ("dataset_manifest", put("shards", 0, "bytes", to=10**30), "bytes is not valid"),
    ("store_manifest", put("shards", 0, "file", to=OUTSIDE), "lists shard files with unexpected"),
    ("store_manifest", put("fields", 0, "shape", to=[1 << 40]), "fields.0.shape.0 is not valid"),
    ("store_manifest", put("fields", 0, "dtype", to="object"), "dtype is not valid"),
    ("store_manifest", put("fields", to=[]), "lists fields that no teacher gives"),
    ("store_manifest", put("shards", 0, "rows", to=3), "contradicts itself"),
    ("shard_note", drop("made_from"), "made_from is not valid"),
    ("shard_note", drop("shard"), "shard is not valid"),
    ("shard_note", put("shard", "file", to=5), "shard.file is not valid"),
    ("store_note", drop("made_from"), "made_from is not valid"),
    ("model_config", put("hidden_act", to={}), "has hidden_act={}"),
    ("model_config", put("num_hidden_layers", to=10**9), "from 1 to 1000"),
    ("model_config", put("num_attention_heads", to=0), "num_attention_heads=0;"),
    ("model_config", put("hidden_size", to=True), "hidden_size=True; it must be a whole number"),
    ("model_config", put("hidden_dropout_prob", to="x"), "hidden_dropout_prob='x'"),
    ("model_config", put("id2label", to={"x": "y"}), "id2label that does not map"),
    ("model_config", put("id2label", to=[1]), "id2label that does not map"),
    ("model_config", put("architectures", to=[[]]), "architectures that are not a list of names"),
    ("model_config", put("problem_type", to=[]), "has problem_type="),
    (
        "safetensors_index",
        put("weight_map", KEY, to="../model-1.safetensors"),
        "no weight_map from",
    ),
    ("safetensors_index", put("weight_map", KEY, to=7), "no weight_map from"),
    ("safetensors_index", put("weight_map", to=[]), "no weight_map from"),
    (
        "safetensors_index",
        put("weight_map", KEY, to="model-3.safetensors"),
        "model-3.safetensors is",
    ),
    ("tokenizer_config", put("do_lower_case", to={}), "where only true and false make sense"),
    ("tokenizer_json", put("normalizer", to="x"), "is not a tokenizer of the tokenizers library"),
    ("tokenizer_json", put("normalizer", "lowercase", to=3), "is not a tokenizer of the"),
    ("tokenizer_json", put("model", "unk_token", to="[UNKNOWN]"), "has no '[UNKNOWN]' in its"),
    ("tokenizer_json", put("model", "vocab", to=[1]), "tokenizers library"),
    ("input_digests", put("x", to=5), "is damaged or was edited"),
    ("input_digests", put("x", to=[1]), "is damaged or was edited"),
    ("input_digests", put("\ud800", to=[1, 2.5, "d"]), "is damaged or was edited"),
]


@pytest.mark.parametrize(("name", "change", "message"), FOUND_IN_JSON)
def test_json_that_once_did_harm(name, change, message, tmp_path):
    target = PARSERS[name](tmp_path)
    value = json.loads(target.seeds[0])
    change(value)
    refusal = check(target, fitting(name, value), tmp_path)
    assert message in str(refusal)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model_config", "is not a JSON object"),
        ("tf1_config", "is not a JSON object"),
        ("tokenizer_config", "is not a JSON object"),
        ("input_digests", "is not a JSON object"),
        ("shard_note", "is not in the format"),
    ],
)
def test_json_that_is_no_object(name, message, tmp_path):
    assert message in str(check(PARSERS[name](tmp_path), b'["x"]', tmp_path))


def test_a_manifest_with_letters_that_no_file_can_hold(tmp_path):
    target = PARSERS["dataset_manifest"](tmp_path)
    value = {**json.loads(target.seeds[0]), "name": "\ud800"}
    refusal = check(target, json.dumps(value).encode(), tmp_path)
    assert "was changed after it was written" in str(refusal)


def edited(content: bytes, field: str, number: int) -> bytes:
    """Returns a .npy index with a number in the first row's field."""
    head = len(content) - 4 * INDEX.itemsize
    index = np.frombuffer(content[head:], INDEX).copy()
    index[0][field] = number
    return content[:head] + index.tobytes()


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("offset", 1 << 63), ("offset", 1 << 20), ("size", (1 << 32) - 1), ("tokens", 0),
        ("tokens", (1 << 32) - 1), ("ids_at", 1 << 30), ("ids_bytes", 1 << 31),
        ("segments_at", 1 << 20), ("id_at", 1 << 20), ("label_bytes", 1 << 30), ("next_at", 1 << 9),
    ],
)  # fmt: skip
def test_an_index_that_points_outside(field, number, tmp_path):
    target = PARSERS["dataset_index"](tmp_path)
    content = edited(target.seeds[0], field, number)
    assert "does not describe the 4 rows" in str(check(target, content, tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b"(4,)", b"(9,)"),
        lambda content: content.replace(b"(4,)", b"(4, "),
        lambda content: content[:40],
        lambda content: b"PK\x03\x04" + content,
        lambda content: content.replace(b"'<u8'", b"'|O8'"),
    ],
)
def test_an_index_with_a_header_of_lies(change, tmp_path):
    target = PARSERS["dataset_index"](tmp_path)
    refusal = str(check(target, change(target.seeds[0]), tmp_path))
    assert "is not an index" in refusal or "does not describe" in refusal


def test_a_store_of_rows_of_another_size(tmp_path):
    target = PARSERS["store_shard"](tmp_path)
    refusal = check(target, target.seeds[0][:-2], tmp_path)
    assert "contradicts itself in the sizes of its shards" in str(refusal)


def test_a_record_that_says_it_is_two_gigabytes_long(tmp_path):
    target = PARSERS["record_frames"](tmp_path)
    size = ((1 << 31) - 1).to_bytes(8, "little")
    header = size + tfrecord.mask(tfrecord.crc32c(size)).to_bytes(4, "little")
    assert "has a damaged length" in str(check(target, header + b"x" * 99, tmp_path))


def test_a_checkpoint_whose_description_has_no_sense(tmp_path):
    target = PARSERS["checkpoint_note"](tmp_path)
    value = json.loads(target.seeds[0])
    value["performance_metrics"] = []
    assert "checkpoint" in str(check(target, json.dumps(value).encode(), tmp_path))


def test_parquet_text_that_is_not_utf8(tmp_path):
    target = PARSERS["parquet_file"](tmp_path)
    good = parquet.read_table(io.BytesIO(target.seeds[0]))
    name = next(field.name for field in good.schema if pyarrow.types.is_string(field.type))
    spoilt = pyarrow.array([b"a\xff"] * good.num_rows, pyarrow.binary()).view(pyarrow.string())
    stream = io.BytesIO()
    parquet.write_table(good.set_column(good.schema.get_field_index(name), name, spoilt), stream)
    refusal = check(target, stream.getvalue(), tmp_path)
    assert "contains text that is not UTF-8 (invalid start byte)" in str(refusal)
