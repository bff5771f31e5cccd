"""Our forward pass equals transformers' BERT, whose outputs lie in `bert_reference.npz`.

`make_reference.py` beside this file made them, so that this test needs neither torch nor
transformers.
"""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from pd_jax.models.bert import Bert
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.weights import hf

HERE = pathlib.Path(__file__).parent
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(HERE / "bert_reference.npz") as file:
        return dict(file)


@pytest.fixture(params=["gelu", "gelu_new"])
def activation(request: pytest.FixtureRequest) -> str:
    return request.param


def folder_of(
    folder: pathlib.Path, reference: dict[str, np.ndarray], activation: str, heads: tuple[str, ...]
) -> pathlib.Path:
    """Writes the reference's weights as transformers would."""
    tensors = {
        name.removeprefix("tensor/"): value
        for name, value in reference.items()
        if name.startswith(tuple(f"tensor/{head}" for head in ("bert", *heads)))
    }
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    config = {"model_type": "bert", "hidden_act": activation, **SHAPE}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def inputs_of(reference: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(reference[name] for name in ("input_ids", "token_type_ids", "attention_mask"))


def test_pretraining_model_equals_transformers(
    reference: dict[str, np.ndarray], activation: str, tmp_path: pathlib.Path
) -> None:
    saved = hf.load(folder_of(tmp_path, reference, activation, ("cls",)))
    inputs = inputs_of(reference)
    encoded = Bert(saved.config).apply({"params": saved.params["bert"]}, *inputs)
    everywhere = np.broadcast_to(np.arange(9), (3, 9))
    mlm, nsp = PretrainingModel(saved.config).apply({"params": saved.params}, *inputs, everywhere)
    for name, ours in (
        ("states", np.stack([*encoded.states, encoded.sequence])),
        ("pooled", encoded.pooled),
        ("mlm", mlm),
        ("nsp", nsp),
    ):
        np.testing.assert_allclose(ours, reference[f"{activation}/{name}"], rtol=0, atol=1e-5)


def test_task_model_equals_transformers(
    reference: dict[str, np.ndarray], activation: str, tmp_path: pathlib.Path
) -> None:
    saved = hf.load(folder_of(tmp_path, reference, activation, ("classifier",)))
    logits = TaskModel(saved.config, 3).apply({"params": saved.params}, *inputs_of(reference))
    np.testing.assert_allclose(logits, reference[f"{activation}/task"], rtol=0, atol=1e-5)


def test_the_reference_tells_the_two_gelus_and_a_wrong_scale_apart(
    reference: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    """The control: what the tests above compare would differ by more than they allow."""
    exact, tanh = reference["gelu/mlm"], reference["gelu_new/mlm"]
    assert np.abs(exact - tanh).max() > 1e-4
    reference = {**reference}
    name = "tensor/bert.encoder.layer.1.output.LayerNorm.weight"
    reference[name] = reference[name] * np.float32(1.001)
    saved = hf.load(folder_of(tmp_path, reference, "gelu", ("classifier",)))
    logits = TaskModel(saved.config, 3).apply({"params": saved.params}, *inputs_of(reference))
    assert np.abs(logits - reference["gelu/task"]).max() > 1e-4
