"""Teachers for torch whose files cannot be read, or that torch cannot put where they belong."""

import pickle
import shutil

import pytest
from etils import epath

from pd_jax.errors import WeightsError
from pd_jax.stages import torch_teacher
from pd_jax.stages.torch_teacher import load_torch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 438000000\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A DistilBERT as transformers saves it."""
    folder = tmp_path_factory.mktemp("saved") / "teacher"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = transformers.DistilBertConfig(
        vocab_size=7, dim=8, hidden_dim=8, n_layers=1, n_heads=1, max_position_embeddings=16
    )
    transformers.DistilBertForSequenceClassification(shape).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "teacher")


def load(folder):
    return load_torch(folder, dtype="float32", length=16)


@pytest.mark.parametrize("kind", ["cut", "pointer", "empty"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_a_damaged_file_is_one_sentence(folder, kind, name):
    path = folder / name
    if name == "pytorch_model.bin":
        torch.save({"a": torch.zeros(99)}, path)
        (folder / "model.safetensors").unlink()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "pointer": POINTER, "empty": b""}[kind])
    message = r"teacher is not a classifier that transformers can read \(.+\); name a folder with"
    with pytest.raises(WeightsError, match=message) as fault:
        load(folder)
    assert "\n" not in str(fault.value) and "git lfs pull" in str(fault.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (pickle.UnpicklingError("invalid load key"), r"can read \(invalid load key\); name a fol"),
        (AttributeError("no\n\nsuch"), r"can read \(no such\); name a folder"),
        (EOFError(), r"can read \(EOFError\); name a folder"),
        (ImportError("X requires tiktoken"), r"not installed \(X requires tiktoken\); install it"),
    ],
)
def test_whatever_a_library_raises_is_one_sentence(folder, monkeypatch, fault, message):
    def refuse(*_, **__):
        raise fault

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_want_of_memory_is_not_taken_for_damage(folder, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(MemoryError):
        load(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use this machine's GPU")
def test_a_gpu_that_torch_cannot_use_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch_teacher, "_NVIDIA_DRIVER", epath.Path(tmp_path / "absent"))
    assert load(folder).device == "cpu"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch_teacher, "_NVIDIA_DRIVER", epath.Path(tmp_path))
    assert load(folder).device == "cpu"
    told = capsys.readouterr().err
    assert told.startswith("warning: torch ") and f"{folder} runs on the CPU; install" in told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    load(folder)
    assert capsys.readouterr().err == ""
