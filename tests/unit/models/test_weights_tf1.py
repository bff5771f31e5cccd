"""TF1 checkpoints: two released tables read whole, and written ones read back bit for bit."""

import json
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pd_jax.errors import WeightsError
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, hf_config, layout, tf1
from tests import tf1_writer

CONFIG = BertConfig(
    vocab_size=30, layers=2, hidden=8, heads=2, intermediate=12, positions=10, gelu="tanh"
)
HEADS = (*layout.pooler(CONFIG), *layout.mlm(CONFIG), *layout.nsp(CONFIG))


def write(folder: pathlib.Path, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    return tf1_writer.write(folder, tensors, CONFIG)


def make_tensors() -> dict[str, np.ndarray]:
    return {
        tensor.tf1: np.random.default_rng(seed).standard_normal(tensor.tf1_shape(), np.float32)
        for seed, tensor in enumerate((*layout.encoder(CONFIG), *HEADS))
    }


@pytest.mark.parametrize("name", ["uncased_L-4_H-256_A-4", "uncased_L-8_H-512_A-8"])
def test_released_tables_are_read_and_mapped_whole(data_folder: pathlib.Path, name: str) -> None:
    """Both tables of google-research/bert: every name, shape, offset and checksum."""
    folder = data_folder / "vocab"
    index = tf1.read_index(folder / f"{name}.bert_model.ckpt.index")
    rows = [
        f"{key} [{', '.join(map(str, held.shape))}] dtype {held.dtype} offset {held.offset} "
        f"bytes {held.size} crc32c {struct.pack('<I', held.crc32c).hex()}"
        for key, held in index.entries.items()
    ]
    *expected, total = (
        (folder / f"{name}.bert_model.ckpt.index.tensors.txt").read_text().splitlines()
    )
    assert rows == expected
    assert index.shards == 1
    values = json.loads((folder / f"{name}.bert_config.json").read_text())
    config = hf_config.shape_from(values, where=name)
    shapes = {key: held.shape for key, held in index.entries.items()}
    mapped = tf1.tensors_of(config, shapes, where=name)
    assert sorted(tensor.tf1 for tensor in mapped) == sorted(shapes)
    assert f"TOTAL params {sum(int(np.prod(tensor.shape)) for tensor in mapped)}" == total


@pytest.mark.parametrize("way", ["prefix", "index", "folder"])
def test_a_checkpoint_is_read_bit_for_bit(tmp_path: pathlib.Path, way: str) -> None:
    tensors = make_tensors()
    slots = {
        "bert/pooler/dense/bias/adam_m": np.zeros(8, np.float32),
        "global_step": np.array(7, np.int64),
    }
    prefix = write(tmp_path / "ckpt", {**tensors, **slots})
    path = {"prefix": prefix, "index": f"{prefix}.index", "folder": prefix.parent}[way]
    saved, unused = tf1.load(path)
    assert unused == ("bert/pooler/dense/bias/adam_m", "global_step")
    assert saved.config == CONFIG
    flat = layout.flatten(saved.params)
    for tensor in (*layout.encoder(CONFIG), *HEADS):
        theirs = tensors[tensor.tf1]
        theirs = theirs.T if tensor.tf1_transposed else theirs
        assert flat.pop(tensor.path).tobytes() == theirs.tobytes(), tensor.path
    assert not flat
    hf.save(tmp_path / "hf", saved.params, saved.config)
    assert hf.load(tmp_path / "hf").fingerprint == saved.fingerprint


def test_a_fine_tuned_checkpoint_has_its_classifier(tmp_path: pathlib.Path) -> None:
    tensors = make_tensors()
    for name in [name for name in tensors if name.startswith("cls/")]:
        del tensors[name]
    tensors["output_weights"] = np.arange(24, dtype=np.float32).reshape(3, 8)
    tensors["output_bias"] = np.arange(3, dtype=np.float32)
    saved, _ = tf1.load(write(tmp_path, tensors), gelu="exact")
    assert saved.config.gelu == "exact"
    kernel = saved.params["classifier"]["kernel"]
    assert kernel.shape == (8, 3) and kernel[5, 2] == 2 * 8 + 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bert/pooler/dense/bias"), "lacks bert/pooler/dense/bias"),
        (lambda t: t.update(more=np.zeros(1, np.float32)), "has unknown more"),
        (
            lambda t: t.update({"cls/predictions/output_bias": np.zeros(31, np.float32)}),
            r"cls/predictions/output_bias of shape \(31,\), not \(30,\)",
        ),
        (
            lambda t: t.update({"bert/pooler/dense/bias": np.zeros(8, np.int64)}),
            "bert/pooler/dense/bias as TensorFlow type 9",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: pathlib.Path, change: Callable[[dict], Any], message: str
) -> None:
    tensors = make_tensors()
    change(tensors)
    with pytest.raises(WeightsError, match=message):
        tf1.load(write(tmp_path, tensors))


def test_one_flipped_bit_is_noticed_wherever_it_is(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path, make_tensors())
    data = prefix.with_name(prefix.name + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[-1] ^= 4
    data.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged in cls/seq_relationship/output_weights"):
        tf1.load(prefix)
    index = prefix.with_name(prefix.name + ".index")
    whole = index.read_bytes()
    meaning = len(whole) - 48  # the footer's padding carries none
    for position in [*range(0, meaning, 97), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[position] ^= 1
        index.write_bytes(flipped)
        with pytest.raises(WeightsError, match=r"ckpt\.index is damaged"):
            tf1.load(prefix)


@pytest.mark.parametrize("left", [0, 10, 47, 200])
def test_a_cut_index_is_refused(tmp_path: pathlib.Path, left: int) -> None:
    prefix = write(tmp_path, make_tensors())
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(index.read_bytes()[:left])
    with pytest.raises(WeightsError, match=r"ckpt\.index is damaged"):
        tf1.load(prefix)


def test_missing_files_are_named(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path, make_tensors())
    data = prefix.with_name(prefix.name + ".data-00000-of-00001")
    content = data.read_bytes()
    data.write_bytes(content[:-8])
    with pytest.raises(WeightsError, match="ends before cls/seq_relationship/output_weights does"):
        tf1.load(prefix)
    data.unlink()
    with pytest.raises(WeightsError, match=r"data-00000-of-00001 does not exist"):
        tf1.load(prefix)
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(WeightsError, match=r"bert_config\.json does not exist"):
        tf1.load(prefix)
    prefix.with_name(prefix.name + ".index").unlink()
    with pytest.raises(WeightsError, match=r"must have one \*\.index file, but has none"):
        tf1.load(tmp_path)
