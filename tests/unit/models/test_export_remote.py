"""Exports to a bucket: compared by transformers, which reads local folders alone."""

import pathlib
from typing import Any, ClassVar

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.models.export import programs, write
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf
from tests import tiny

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
IDS = np.zeros((1, 4), np.int32)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> epath.Path:
    """Returns a folder of a bucket that is held in memory."""

    class Bucket(MemoryFileSystem):
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = ["", "/bucket"]

        @classmethod
        def _strip_protocol(cls, path: Any) -> Any:
            if isinstance(path, list):
                return [cls._strip_protocol(one) for one in path]
            return super()._strip_protocol(str(path).removeprefix("gs://"))

    held, local = Bucket(skip_instance_cache=True), LocalFileSystem()

    def file_system(_: Any, path: Any) -> Any:
        return held if str(path).startswith("gs://") else local

    monkeypatch.setattr(type(backend.fsspec_backend), "fs", file_system)
    return epath.Path("gs://bucket/models")


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_an_export_to_a_bucket_is_compared_as_a_local_one(
    format: config_lib.ExportFormat, bucket: epath.Path, tmp_path: pathlib.Path
) -> None:
    for package in ("torch", "transformers", "onnxruntime"):
        pytest.importorskip(package)
    config = BertConfig(len(PIECES), layers=1, hidden=16, heads=2, intermediate=24, positions=32)
    params = dict(tiny.weights(TaskModel(config, 2).init, IDS, IDS, IDS)["params"])
    fingerprint = hf.fingerprint(params, config, labels=("no", "yes"), task="classification")
    model = hf.SavedModel(config, params, ("no", "yes"), "classification", fingerprint)
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    (check,) = write.export(model, tokenizer, bucket, format=format, card="\n".join)
    assert check.difference is not None and check.difference < 1e-5
    card = (bucket / "README.md").read_text()
    assert "transformers' ids equal ours" in card and check.sentence() in card
    assert [path.name for path in bucket.parent.iterdir()] == ["models"]
    assert programs.transformers_tokens(bucket, ["ab"]) is not None
