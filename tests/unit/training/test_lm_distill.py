"""The triple loss: numbers by hand, and what a student equal to its teacher has left to learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models import sizes
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.weights import hf
from pd_jax.objectives.lm_distill import cosine_rows, make_lm_distill
from pd_jax.objectives.mlm import Vocabulary
from pd_jax.objectives.objective import OnlineTeacher, dummy_inputs
from pd_jax.report import notation
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from tests import tiny

SHAPE = sizes.BertConfig(
    64, layers=2, hidden=32, heads=2, intermediate=64, positions=16, dropout=0.0
)
VOCABULARY = Vocabulary(64, 0, 2, 3, 4, None)


def test_cosines_by_hand():
    student = jnp.asarray([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    teacher = jnp.asarray([[4.0, 3.0], [0.0, 7.0], [-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_rows(student, teacher), [0.04, 1.0, 2.0, 1.0], atol=1e-6)
    gradient = jax.grad(lambda states: cosine_rows(states, teacher).sum())(student)
    assert np.isfinite(gradient).all()


def pretrained(seed: int, shape=SHAPE):
    zeros = jnp.zeros((1, 1), jnp.int32)
    return tiny.weights(PretrainingModel(shape).init, *dummy_inputs(), zeros, seed=seed)["params"]


def made(params, **changes):
    objective = config_lib.LanguageDistill(**{"teacher": "none", **changes})
    held = {name: params[name] for name in ("bert", "mlm")}
    return make_lm_distill(objective, SHAPE, VOCABULARY, OnlineTeacher(SHAPE, held))


def batch():
    ids = jax.random.randint(jax.random.key(1), (6, 12), 5, 64)
    mask = (jnp.arange(12) < jnp.asarray([[12], [9], [12], [5], [12], [12]])).astype(jnp.int32)
    weight = jnp.asarray([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    return {"input_ids": ids * mask, "segment_ids": ids * 0, "input_mask": mask, "weight": weight}


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_the_three_terms_over_the_tokens_they_are_meant_for(positions):
    params, others = pretrained(0), pretrained(1)
    objective = made(params, positions=positions)
    prepared = jax.jit(
        lambda frozen, key: objective.teach(frozen, objective.prepare(batch(), key))
    )(objective.frozen, jax.random.key(2))
    sums = jax.jit(objective.sums)
    same = sums(params, prepared, None)
    masked = 2 + 1 + 2 + 1 + 2  # 15 % of 12, 9, 12, 5 and 12 tokens; the last row weighs nothing
    tokens = 12 + 9 + 12 + 5 + 12
    counts = {"mlm_loss": masked, "soft_loss": tokens if positions == "all" else masked}
    assert {name: same[name][1] for name in counts} == counts
    assert same["cosine_loss"][1] == tokens
    assert same["soft_loss"][0] == pytest.approx(0.0, abs=1e-4)
    assert same["cosine_loss"][0] == pytest.approx(0.0, abs=1e-4)
    assert same["agreement"][0] == same["agreement"][1]
    assert dict(objective.terms) == {"soft_loss": 5.0, "mlm_loss": 2.0, "cosine_loss": 1.0}
    assert all(map(notation.lower_is_better, objective.terms))
    found = sums(others, prepared, None)
    # The soft loss again, in NumPy and float64, from both models' logits.
    inputs = [prepared[name] for name in ("input_ids", "segment_ids", "input_mask", "positions")]
    apply = jax.jit(PretrainingModel(SHAPE).apply)
    student = np.float64(apply({"params": others}, *inputs)[0]) / 2
    teacher = np.float64(prepared["teacher_logits"]) / 2

    def logs(logits):
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    rows = 4 * (np.exp(logs(teacher)) * (logs(teacher) - logs(student))).sum(-1)
    expected = (rows * np.asarray(prepared["soft_weights"])).sum()
    assert found["soft_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert found["mlm_loss"][0] / masked == pytest.approx(math.log(64), rel=0.05)


def test_teachers_that_do_not_fit_are_refused():
    wide = sizes.BertConfig(64, layers=2, hidden=64, heads=2, intermediate=64, positions=16)
    many = sizes.BertConfig(65, layers=2, hidden=32, heads=2, intermediate=64, positions=16)
    objective = config_lib.LanguageDistill(teacher="none")
    for teacher, message in ((wide, "32 hidden units, .* teacher has 64"), (many, "65 entries")):
        with pytest.raises(ConfigError, match=message):
            make_lm_distill(objective, SHAPE, VOCABULARY, OnlineTeacher(teacher, {}))
    narrow = config_lib.LanguageDistill(teacher="none", cosine_weight=0.0)
    assert (
        "cosine_loss"
        not in make_lm_distill(narrow, SHAPE, VOCABULARY, OnlineTeacher(wide, {})).terms
    )


def test_a_student_learns_its_teachers_language(tmp_path):
    tiny.dataset(tmp_path / "set", rows=32, labelled=False)
    deep = sizes.BertConfig(64, layers=4, hidden=32, heads=2, intermediate=128, positions=16)
    params = pretrained(3, deep)
    hf.save(tmp_path / "teacher", params, deep, add=tiny.tokenizer)
    stage = tiny.stage(
        tmp_path / "set",
        model={"size": "L2_H32", "heads": 2, "positions": 16},
        objective={"kind": "lm_distill", "teacher": str(tmp_path / "teacher")},
        init={"source": str(tmp_path / "teacher"), "layers": (0, 3)},
        compute={"micro_batches": 2},
        evaluation={
            "sets": {"dev": str(tmp_path / "set")},
            "every": {"steps": 6},
            "best": "dev/mlm_accuracy",
        },
    )
    folder = epath.Path(tmp_path / "run")
    folder.mkdir()
    done = run_train(stage, Context("run", folder, tiny.run_options()))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 3
    assert {"train/soft_loss", "train/cosine_loss", "train/kl", "dev/kl"} <= done.metrics.keys()
    total = sum(
        weight * done.metrics[f"train/{name}"]
        for name, weight in {"soft_loss": 5.0, "mlm_loss": 2.0, "cosine_loss": 1.0}.items()
    )
    assert done.metrics["train/loss"] == pytest.approx(total, rel=1e-5)
    assert done.metrics["dev/cosine_loss"] < 0.5
    learnt = hf.load(folder / "model").params
    assert done.parameters == sum(leaf.size for leaf in jax.tree.leaves(learnt))
    for own, began in ((learnt, params), (learnt["bert"], params["bert"])):  # no loss reads them
        name = "nsp" if "nsp" in began else "pooler"
        jax.tree.map(np.testing.assert_array_equal, own[name], began[name])
