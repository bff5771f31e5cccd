"""Real transformers models come in, compute the same, and go out bit for bit."""

import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pd_jax import config as config_lib
from pd_jax.models import sizes
from pd_jax.models.bert import Bert
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.weights import hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 70,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
NAMED = ("Mini", "Small", "Medium", "Base")


def named(size: str) -> dict[str, int]:
    """Returns transformers' settings of one of the released sizes."""
    config = sizes.bert_config(config_lib.Model(size=size), vocab_size=30_522)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
    }


def make_pretraining(settings: dict[str, Any]) -> Any:
    """Returns BertForPreTraining at random values, biases and LayerNorms too."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch(vocabulary: int, length: int, *, padded: bool) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, vocabulary, (3, length))
    kept = np.array([[length], [length // 2], [1]]) if padded else np.full((3, 1), length)
    return {
        "input_ids": ids,
        "token_type_ids": np.broadcast_to(np.arange(length) > length // 3, ids.shape).astype(int),
        "attention_mask": (np.arange(length) < kept).astype(int),
    }


def largest_differences(model: Any, folder: pathlib.Path, length: int) -> dict[str, float]:
    """Returns the largest difference of every output, over tokens that are not padding."""
    saved = hf.load(folder)
    found = {}
    for padded in (False, True):
        inputs = batch(saved.config.vocab_size, length, padded=padded)
        with torch.no_grad():
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            theirs = model(**tensors, output_hidden_states=True)
            pooled = model.bert(**tensors).pooler_output
        encoded = Bert(saved.config).apply({"params": saved.params["bert"]}, *inputs.values())
        everywhere = np.broadcast_to(np.arange(length), inputs["input_ids"].shape)
        mlm, nsp = PretrainingModel(saved.config).apply(
            {"params": saved.params}, *inputs.values(), everywhere
        )
        states = [*encoded.states, encoded.sequence]
        assert len(states) == len(theirs.hidden_states) == saved.config.layers + 1
        tokens = inputs["attention_mask"] > 0
        pairs = [
            (f"state {index}", ours[tokens], other.numpy()[tokens])
            for index, (ours, other) in enumerate(zip(states, theirs.hidden_states, strict=True))
        ]
        pairs += [
            ("pooler", encoded.pooled, pooled.numpy()),
            ("mlm", mlm[tokens], theirs.prediction_logits.numpy()[tokens]),
            ("nsp", nsp, theirs.seq_relationship_logits.numpy()),
        ]
        for name, ours, other in pairs:
            key = f"{name}, {'padded' if padded else 'unpadded'}"
            found[key] = float(np.abs(np.asarray(ours) - other).max())
    return found


def assert_same_there_and_back(
    settings: dict[str, Any], folder: pathlib.Path, length: int
) -> float:
    """Returns the largest of all differences, after there and back was bit for bit."""
    model = make_pretraining(settings)
    model.save_pretrained(folder / "theirs")
    found = largest_differences(model, folder / "theirs", length)
    assert max(found.values()) < 1e-5, found
    saved = hf.load(folder / "theirs")
    hf.save(folder / "ours", saved.params, saved.config)
    theirs, ours = (
        safetensors.numpy.load((folder / name / "model.safetensors").read_bytes())
        for name in ("theirs", "ours")
    )
    assert set(theirs) == set(ours)
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in theirs)
    again, info = transformers.BertForPreTraining.from_pretrained(
        folder / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    before = model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())
    return max(found.values())


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_a_small_model_computes_the_same_and_comes_back(
    tmp_path: pathlib.Path, activation: str
) -> None:
    assert_same_there_and_back({**SMALL, "hidden_act": activation}, tmp_path, length=20)


def test_tiny_computes_the_same_and_comes_back(tmp_path: pathlib.Path) -> None:
    assert_same_there_and_back(named("Tiny"), tmp_path, length=24)


@pytest.mark.slow
@pytest.mark.parametrize("size", NAMED)
def test_named_sizes_compute_the_same_and_come_back(tmp_path: pathlib.Path, size: str) -> None:
    largest = assert_same_there_and_back(named(size), tmp_path, length=64)
    print(f"{size}: largest difference {largest:.3g}")


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("BertModel", set()),
        ("BertForMaskedLM", {"mlm"}),
        ("BertForNextSentencePrediction", {"nsp"}),
        ("BertForSequenceClassification", {"classifier"}),
    ],
)
def test_every_kind_of_model_is_read(tmp_path: pathlib.Path, kind: str, heads: set[str]) -> None:
    """With the right tensors: the state of the last layer equals theirs."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_labels=4)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(tmp_path)
    saved = hf.load(tmp_path)
    assert set(saved.params) == {"bert", *heads}
    inputs = batch(70, 9, padded=False)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        theirs = model(**tensors, output_hidden_states=True).hidden_states[-1].numpy()
    if "pooler" not in saved.params["bert"]:
        zeros = {"kernel": np.zeros((24, 24)), "bias": np.zeros(24)}
        saved.params["bert"]["pooler"] = zeros
    ours = Bert(saved.config).apply({"params": saved.params["bert"]}, *inputs.values())
    np.testing.assert_allclose(ours.sequence, theirs, rtol=0, atol=1e-5)


def test_models_for_other_tasks_are_refused(tmp_path: pathlib.Path) -> None:
    config = transformers.BertConfig(**SMALL)
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path)
    with pytest.raises(
        hf.WeightsError, match="is for BertForTokenClassification.*save `model.bert`"
    ):
        hf.load(tmp_path)
