"""Training in bfloat16: what must stay float32 does; losses and gradients are near float32's."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pd_jax import config as config_lib
from pd_jax.models.heads import TaskModel
from pd_jax.objectives.objective import Objective
from pd_jax.training import rng
from pd_jax.training.optim import make_schedule
from pd_jax.training.step import first_state, pure_step
from tests import tiny
from tests.sharding import test_step
from tests.sharding.test_step import SHAPE, batches

KINDS = ("mlm", "classify", "distill")
STEPS = 20
OPTIMIZER = config_lib.Optimizer(learning_rate=1e-3)
SCHEDULE = make_schedule(OPTIMIZER, STEPS)
IN_FLOAT32 = ("exp", "exp2", "log", "log1p", "rsqrt")
"""What softmax, losses and norms are made of."""


def objective(kind: str, dtype: str) -> Objective:
    shape = dataclasses.replace(SHAPE, dtype=dtype, dropout=0.0, attention_dropout=0.0)
    return test_step.objective(kind, shape)


def loss_of(made: Objective, batch: Any):
    """Returns params -> the loss of a batch, masked alike in either precision."""
    prepared = jax.jit(made.prepare)(batch, rng.root_key(3))

    return lambda params: mean(made, made.sums(params, prepared, None))


def mean(made: Objective, sums: Any) -> jax.Array:
    """Returns the loss that an objective's sums come to."""
    return jnp.sum(
        jnp.stack([weight * sums[name][0] / sums[name][1] for name, weight in made.terms.items()])
    )


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields every equation of a traced function, those of inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_near_those_of_float32(kind):
    batch = next(batches(1))
    params = tiny.weights(objective(kind, "float32").init)
    found = {}
    for dtype in ("float32", "bfloat16"):
        made = objective(kind, dtype)
        found[dtype] = jax.jit(jax.value_and_grad(loss_of(made, batch)))(params)
    (exact, exact_grads), (near, near_grads) = found["float32"], found["bfloat16"]
    assert float(near) != float(exact)
    np.testing.assert_allclose(float(near), float(exact), rtol=2e-3)
    flat = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])
            for grads in (exact_grads, near_grads)]  # fmt: skip
    apart = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    assert apart < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_softmax_losses_norms_and_all_that_is_kept_are_float32(kind):
    made = objective(kind, "bfloat16")
    state = first_state(tiny.weights(made.init))
    step = pure_step(made, OPTIMIZER)
    arguments = (made.frozen, SCHEDULE, state, next(batches(1)), rng.root_key(1))
    traced = jax.make_jaxpr(step)(*arguments)
    fine = [
        one
        for one in equations(traced.jaxpr)
        if one.primitive.name in IN_FLOAT32
        and one.outvars[0].aval.shape[-1:] not in ((SHAPE.intermediate,), (SHAPE.hidden,))
    ]  # exp of the states' own shapes is of GELU's derivative
    assert {one.primitive.name for one in fine} >= {"exp", "log", "rsqrt"}
    for one in fine:
        assert one.outvars[0].aval.dtype == jnp.float32, one
    products = [one for one in equations(traced.jaxpr) if one.primitive.name == "dot_general"]
    assert any(one.invars[0].aval.dtype == jnp.bfloat16 for one in products)
    after, sums = jax.eval_shape(step, *arguments)
    kept = [leaf.dtype for leaf in jax.tree.leaves((after.params, after.optimizer, sums))]
    assert jnp.bfloat16 not in kept


def test_losses_of_twenty_steps_follow_those_of_float32():
    found = {}
    for dtype in ("float32", "bfloat16"):
        made = objective("distill", dtype)
        step = jax.jit(pure_step(made, OPTIMIZER))
        state, losses = first_state(tiny.weights(made.init)), []
        for batch in batches(STEPS):
            state, sums = step(made.frozen, SCHEDULE, state, batch, rng.root_key(1))
            losses.append(float(mean(made, sums)))
        found[dtype] = losses
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=5e-3)


def test_a_tasks_logits_are_finer_than_bfloat16():
    model = TaskModel(dataclasses.replace(SHAPE, dtype="bfloat16"), 3)
    batch = next(batches(1))
    tokens = [batch[name] for name in ("input_ids", "segment_ids", "input_mask")]
    logits = jax.jit(model.apply)(tiny.weights(model.init, *tokens), *tokens)
    assert isinstance(logits, jax.Array) and logits.dtype == jnp.float32
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.mean(np.asarray(rounded != logits)) > 0.9
