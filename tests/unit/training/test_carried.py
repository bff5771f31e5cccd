"""Pooler and next-sentence head beside masked language modelling, which reads neither: a model from
its seed has none, and those of another that it begins with are kept as they are.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pd_jax.models import sizes
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.weights import hf, layout
from pd_jax.objectives.objective import dummy_inputs
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from tests import tiny

SHAPE = sizes.BertConfig(64, layers=2, hidden=32, heads=2, intermediate=128, positions=16)
MLM = {"kind": "mlm"}
POOLER = {"bert/pooler/kernel", "bert/pooler/bias"}
SENTENCES = {"nsp/kernel", "nsp/bias"}
DECAYS = {"learning_rate": 1e-2, "weight_decay": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    tiny.dataset(folder, rows=32)
    return folder


def trained(data: pathlib.Path, folder: pathlib.Path, **changes: Any) -> tuple[int, str]:
    """Trains a stage for two steps; returns how many parameters it tells, and its table of them."""
    stage = tiny.stage(data, **{"length": {"steps": 2}, "optimizer": DECAYS, **changes})
    folder.mkdir()
    done = run_train(stage, Context("stage", epath.Path(folder), tiny.run_options()))
    return done.parameters, (folder / "parameters.txt").read_text()


def flat(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return layout.flatten(hf.load(folder / "model").params)


def in_transformers(folder: pathlib.Path, kind: str) -> tuple[set[str], set[str]]:
    """Returns the tensors that transformers misses in a model, and those that it has no use for."""
    transformers = pytest.importorskip("transformers")
    loader = getattr(transformers, kind)
    _, info = loader.from_pretrained(folder / "model", output_loading_info=True)
    return set(info["missing_keys"]), set(info["unexpected_keys"])


def test_a_model_from_its_seed_has_neither(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    count, table = trained(data, tmp_path / "mlm", objective=MLM)
    own = flat(tmp_path / "mlm")
    assert not any("pooler" in path or path.startswith("nsp") for path in own)
    assert count == sum(value.size for value in own.values())
    assert "pooler" not in table and "nsp" not in table
    assert in_transformers(tmp_path / "mlm", "BertForMaskedLM") == (set(), set())
    source = {"source": str(tmp_path / "mlm" / "model")}
    _, table = trained(data, tmp_path / "task", init=source)  # which needs a pooler
    assert all(f"fresh   {path}" in table for path in POOLER)
    assert flat(tmp_path / "task").keys() >= POOLER
    _, table = trained(data, tmp_path / "more", init=source, objective=MLM)
    assert "carried" not in table and flat(tmp_path / "more").keys() == own.keys()


def test_those_of_the_model_it_begins_with_are_kept(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Bit for bit, though weights decay: no loss would hold against it."""
    init = PretrainingModel(SHAPE).init
    params = tiny.weights(init, *dummy_inputs(), jnp.zeros((1, 1), jnp.int32))["params"]
    hf.save(tmp_path / "released", params, SHAPE, add=tiny.tokenizer)
    source = {"source": str(tmp_path / "released")}
    count, table = trained(data, tmp_path / "mlm", init=source, objective=MLM)
    own, began = flat(tmp_path / "mlm"), layout.flatten(params)
    assert own.keys() == began.keys() and count == sum(value.size for value in own.values())
    same = {path for path, value in own.items() if np.array_equal(value, began[path])}
    assert same == POOLER | SENTENCES
    assert all(f"carried {path} (as in" in table for path in same) and "unused" not in table
    assert in_transformers(tmp_path / "mlm", "BertForPreTraining") == (set(), set())
    words = {**source, "scope": "word_embeddings"}
    _, table = trained(data, tmp_path / "words", init=words, objective=MLM)
    assert "unused  bert/pooler/kernel" in table and not flat(tmp_path / "words").keys() & POOLER


def test_a_pooler_without_the_next_sentence_head_is_kept_too(
    data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """BertForMaskedLM of transformers has no place for it, and BertModel has."""
    params = tiny.weights(TaskModel(SHAPE, 2).init, *dummy_inputs())["params"]
    hf.save(tmp_path / "task", params, SHAPE, add=tiny.tokenizer)
    trained(data, tmp_path / "mlm", init={"source": str(tmp_path / "task")}, objective=MLM)
    found = hf.load(tmp_path / "mlm" / "model").params
    assert set(found) == {"bert", "mlm"}
    jax.tree.map(np.testing.assert_array_equal, found["bert"]["pooler"], params["bert"]["pooler"])
    theirs = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert in_transformers(tmp_path / "mlm", "BertForMaskedLM") == (set(), theirs)
    missing, _ = in_transformers(tmp_path / "mlm", "BertModel")
    assert missing == set()
