"""The step by itself, of a model of one matrix: what it reports, and what it does when."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax import config as config_lib
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.objective import Objective, as_is, weighted
from pd_jax.training import rng
from pd_jax.training.optim import make_optimizer
from pd_jax.training.step import make_init, pure_step

SHAPE = BertConfig(8, layers=1, hidden=4, heads=1, intermediate=8)
SETTINGS = config_lib.Optimizer(learning_rate=0.1, warmup=0.0)
STEPS = 40


def objective() -> Objective:
    """Returns the squared length of rows behind a matrix."""

    def sums(params: Any, batch: Any, key: Any) -> Any:
        del key
        rows = batch["rows"] @ params["classifier"]["kernel"]
        return {"loss": weighted(jnp.sum(rows**2, axis=-1), batch["weight"])}

    def init(key: jax.Array) -> Any:
        return {"classifier": {"kernel": jax.random.normal(key, (3, 3))}}

    return Objective(SHAPE, {"loss": 1.0}, init=init, prepare=as_is, sums=sums)


def first(made: Objective, seed: int = 0):
    return make_init(make_optimizer(SETTINGS, STEPS))(made.init(rng.root_key(seed)))


def batch(seed: int = 0, rows: int = 4) -> dict[str, jax.Array]:
    generated = jax.random.normal(jax.random.key(seed), (rows, 3))
    return {"rows": generated, "weight": jnp.ones(rows)}


def test_the_rate_that_is_reported_is_the_one_applied_also_after_skipped_steps():
    made, optimizer = objective(), make_optimizer(SETTINGS, STEPS)
    step = jax.jit(pure_step(made, optimizer, skip_nonfinite=True))
    state, reported = first(made), []
    for number in range(4):
        given = batch(number)
        if number == 1:
            given["weight"] = given["weight"] * jnp.nan
        state, sums = step({}, state, given, rng.root_key(0))
        reported.append(float(sums["learning_rate"][0]))
    assert int(state.step) == 4 and int(state.optimizer.count) == 3
    schedule = optimizer.schedule
    applied = [float(schedule(count)) for count in (0, 1, 1, 2)]
    np.testing.assert_allclose(reported, applied, rtol=1e-6)
