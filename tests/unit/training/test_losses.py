"""Losses against numbers computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import hard_loss, make_classify
from pd_jax.objectives.distill import make_distill, soft_loss
from pd_jax.objectives.losses import cross_entropy, kl_divergence, soft_cross_entropy
from tests import tiny

SHAPE = BertConfig(
    vocab_size=50,
    layers=1,
    hidden=16,
    heads=2,
    intermediate=32,
    positions=16,
    dropout=0.0,
    attention_dropout=0.0,
)


def test_cross_entropy_by_hand():
    loss, right = cross_entropy(
        jnp.asarray([[0.0, math.log(3.0)], [2.0, 2.0]]), jnp.asarray([0, 1])
    )
    np.testing.assert_allclose(loss, [math.log(4.0), math.log(2.0)], rtol=1e-6)
    assert right.tolist() == [False, True]


def test_cross_entropy_of_huge_logits_is_finite():
    loss, _ = cross_entropy(jnp.asarray([[1e4, -1e4]]), jnp.asarray([1]))
    assert loss[0] == pytest.approx(2e4)


def test_soft_cross_entropy_by_hand():
    # Teacher 3:1, student 1:1 -> log 2. At T = 2 the teacher is sqrt(3):1, still log 2, times 4.
    teacher, student = jnp.asarray([[math.log(3.0), 0.0]]), jnp.zeros((1, 2))
    assert soft_cross_entropy(student, teacher, temperature=1.0)[0] == pytest.approx(math.log(2))
    assert soft_cross_entropy(student, teacher, temperature=2.0)[0] == pytest.approx(
        4 * math.log(2)
    )
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert kl_divergence(student, teacher)[0] == pytest.approx(math.log(2) - entropy, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_equal_logits_give_zero_gradient_and_the_teachers_entropy(temperature):
    teacher = jnp.asarray([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])

    def total(student):
        return soft_cross_entropy(student, teacher, temperature=temperature).sum()

    gradient = jax.grad(total)(teacher)
    np.testing.assert_allclose(gradient, np.zeros((2, 3)), atol=1e-6 * temperature)
    probabilities = np.asarray(jax.nn.softmax(teacher / temperature), np.float64)
    entropy = -(probabilities * np.log(probabilities)).sum() * temperature**2
    assert total(teacher) == pytest.approx(entropy, rel=1e-5)
    assert kl_divergence(teacher, teacher).sum() == pytest.approx(0.0, abs=1e-6)


def test_temperature_squared_keeps_the_gradients_size():
    teacher, student = jnp.asarray([[0.01, 0.0, -0.01]]), jnp.zeros((1, 3))

    def size(temperature):
        def loss(logits):
            return soft_cross_entropy(logits, teacher, temperature=temperature)[0]

        return float(jnp.abs(jax.grad(loss)(student)).sum())

    sizes = [size(1.0), size(4.0)]
    # Hinton et al. 2015, section 2.1: for small logits the gradient tends to (z - v) / N.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert sizes[0] == pytest.approx(0.02 / 3, rel=0.02)


def test_regression_and_multilabel_by_hand():
    assert hard_loss(jnp.asarray([[1.5]]), jnp.asarray([1.0]), task="regression")[0] == 0.25
    loss = hard_loss(
        jnp.asarray([[0.0, math.log(3.0)]]), jnp.asarray([[1.0, 0.0]]), task="multilabel"
    )
    assert loss[0] == pytest.approx((math.log(2) + math.log(4)) / 2)
    logits = jnp.asarray([[0.3, -1.2]])

    def loss(student):
        settings = {"task": "multilabel", "kind": "cross_entropy", "temperature": 2.0}
        return soft_loss(student, logits, **settings)[0]

    np.testing.assert_allclose(jax.grad(loss)(logits), np.zeros((1, 2)), atol=1e-6)
    settings = {"task": "classification", "kind": "mse", "temperature": 1.0}
    assert soft_loss(jnp.ones((1, 2)), jnp.zeros((1, 2)), **settings)[0] == 1.0


def batch_of(rows: int, length: int = 8):
    ids = jax.random.randint(jax.random.key(3), (rows, length), 4, 50)
    return {
        "input_ids": ids,
        "segment_ids": jnp.zeros_like(ids),
        "input_mask": jnp.ones_like(ids),
        "weight": jnp.ones(rows),
    }


def test_distillation_on_its_own_logits_stands_still():
    objective = make_distill(
        config_lib.Distill(), SHAPE, task="classification", labels=("a", "b"), has_labels=False
    )
    params = tiny.weights(objective.init)
    batch = batch_of(6)
    batch["teacher_logits"] = jax.jit(objective.predict)(params, batch)

    def loss(params):
        sums = objective.sums(params, batch, None)
        total, count = sums["loss"]
        return total / count, sums

    gradient, sums = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-6
    assert sums["kl"][0] == pytest.approx(0.0, abs=1e-5)
    assert sums["agreement"] == (6.0, 6.0)


def test_a_row_of_weight_zero_does_not_count():
    objective = make_classify(SHAPE, task="classification", labels=("a", "b"))
    params = tiny.weights(objective.init)
    batch = batch_of(4) | {"label": jnp.asarray([0, 1, 0, 1])}
    batch["weight"] = jnp.asarray([1.0, 1.0, 0.0, 0.0])
    half = {name: values[:2] for name, values in batch.items()}
    whole, part = (jax.jit(objective.sums)(params, rows, None) for rows in (batch, half))
    assert whole["loss"][0] == pytest.approx(float(part["loss"][0]), rel=1e-6)
    assert whole["loss"][1] == 2.0


def test_hard_labels_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="hard_weight=0.5 needs labels"):
        make_distill(
            config_lib.Distill(hard_weight=0.5),
            SHAPE,
            task="classification",
            labels=("a", "b"),
            has_labels=False,
        )
