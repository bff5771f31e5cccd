"""The step by itself, of a model of one matrix: what it reports, and what it does when."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pd_jax import config as config_lib
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.objective import Objective, as_is, weighted
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh
from pd_jax.parallel.sharding import put_batch
from pd_jax.training import arrays, rng
from pd_jax.training.many import StackedRuns, make_many_step
from pd_jax.training.optim import make_schedule
from pd_jax.training.step import first_state, make_evaluation_step, make_train_step, pure_step

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

    def flops(rows: int, length: int) -> int:
        return 3 * 2 * rows * length * 9

    return Objective(SHAPE, {"loss": 1.0}, init, as_is, sums, flops)


def first(made: Objective, seed: int = 0):
    return first_state(made.init(rng.root_key(seed)))


def batch(seed: int = 0, rows: int = 4) -> dict[str, jax.Array]:
    generated = jax.random.normal(jax.random.key(seed), (rows, 3))
    return {"rows": generated, "weight": jnp.ones(rows)}


def test_the_rate_that_is_reported_is_the_one_applied_also_after_skipped_steps():
    made, schedule = objective(), make_schedule(SETTINGS, STEPS)
    step = jax.jit(pure_step(made, SETTINGS, skip_nonfinite=True))
    state, reported = first(made), []
    for number in range(4):
        given = batch(number)
        if number == 1:
            given["weight"] = given["weight"] * jnp.nan
        state, sums = step({}, schedule, state, given, rng.root_key(0))
        reported.append(float(sums["learning_rate"][0]))
    assert int(state.step) == 4 and int(state.optimizer.count) == 3
    applied = [float(schedule(count)) for count in (0, 1, 1, 2)]
    np.testing.assert_allclose(reported, applied, rtol=1e-6)


def test_one_program_serves_every_rate_and_length():
    made = objective()
    mesh = make_mesh(config_lib.Mesh(), jax.devices()[:1])
    at = sharding.assign(first(made), sharding.RULES, mesh)

    def program(rate: float, steps: int) -> str:
        settings = dataclasses.replace(SETTINGS, learning_rate=rate, warmup=0.1)
        step = make_train_step(made, settings, steps=steps, mesh=mesh, state_sharding=at)
        return step.trace(first(made), batch(), rng.root_key(0)).lower().as_text()

    assert program(0.1, STEPS) == program(0.3, 7 * STEPS)  # 4 and 28 steps of warm-up


def test_a_step_copies_neither_rates_nor_key_to_the_devices():
    made, mesh = objective(), make_mesh(config_lib.Mesh(), jax.devices()[:4])
    everywhere = NamedSharding(mesh, PartitionSpec())
    at = sharding.assign(first(made), sharding.RULES, mesh)
    step = make_train_step(made, SETTINGS, steps=STEPS, mesh=mesh, state_sharding=at)
    many = make_many_step(made, SETTINGS, mesh=mesh, state_sharding=at)
    for number in jax.tree.leaves(step.placed_schedule):
        assert number.committed and number.sharding == everywhere
        assert number.dtype == jnp.float32 and not number.weak_type
    given = jax.tree.map(np.asarray, batch())
    with jax.set_mesh(mesh):
        root = rng.root_key(0)
        assert root.sharding == everywhere  # jax's guard does not see keys
        state, *stacked = (arrays.place(first(made), at) for _ in range(3))
        runs, placed = StackedRuns(many, [step] * 2, stacked, seeds=(0, 1)), put_batch(given, mesh)
        with jax.transfer_guard("disallow"):
            for _ in range(2):
                state, _ = step(state, placed, root)
                step.norms(state)
                runs.step([given] * 2)
    assert int(state.step) == int(runs.state(0).step) == 2


def test_a_schedule_needs_no_device():
    program = (
        "from pd_jax import config; from pd_jax.training.optim import make_schedule; "
        "print(make_schedule(config.Optimizer(learning_rate=0.5, warmup=0.1), 40))"
    )
    without = os.environ | {"JAX_PLATFORMS": "none"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=without, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "0.5" in ran.stdout and "4.0" in ran.stdout and "40.0" in ran.stdout


def test_runs_of_one_program_have_the_sums_and_norms_that_they_have_alone():
    made = objective()
    mesh = make_mesh(config_lib.Mesh(), jax.devices()[:1])
    states = [first(made, seed) for seed in (0, 1)]
    at = sharding.assign(states[0], sharding.RULES, mesh)
    many = make_many_step(made, SETTINGS, mesh=mesh, state_sharding=at)
    alone = [
        make_train_step(
            made,
            dataclasses.replace(SETTINGS, learning_rate=rate, warmup=0.1),
            steps=steps,
            mesh=mesh,
            state_sharding=at,
        )
        for rate, steps in ((0.1, 20), (0.3, 40))
    ]
    # The second run is one step ahead.
    states[1], _ = alone[1](states[1], batch(7), rng.root_key(1))
    runs = StackedRuns(many, alone, states, seeds=(0, 1))
    for number in range(3):
        read = runs.step([batch(number + run) for run in (0, 1)])
        for run in (0, 1):
            before = states[run].params["classifier"]["kernel"].copy()
            states[run], sums = alone[run](states[run], batch(number + run), rng.root_key(run))
            jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5), read(run), sums)
            newest = alone[run].norms(states[run])
            jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5), runs.norms(run), newest)
            kernel = states[run].params["classifier"]["kernel"]
            assert float(newest["parameter_norm"]) == pytest.approx(
                np.linalg.norm(kernel), rel=1e-6
            )
            moved = np.linalg.norm(kernel - before)
            assert float(newest["update_norm"]) == pytest.approx(moved, rel=1e-4)


def taught(width: int) -> Objective:
    """Returns the objective with a teacher at hand that says `width` numbers of every row."""
    made = objective()

    def sums(params: Any, batch: Any, key: Any) -> Any:
        apart = batch["said"] - jnp.sum(
            batch["rows"] @ params["classifier"]["kernel"], axis=-1, keepdims=True
        )
        pair = weighted(jnp.mean(jnp.sin(apart), axis=-1), batch["weight"])
        return made.sums(params, batch, key) | {"soft": pair}

    def teach(frozen: Any, batch: Any) -> Any:
        return {**batch, "said": jnp.cos(batch["rows"] @ frozen["kernel"])}

    taught = dataclasses.replace(made, terms={"loss": 1.0, "soft": 2.0}, sums=sums)
    return taught.taught({"kernel": jnp.cos(jnp.arange(3.0 * width)).reshape(3, width)}, teach)


def stepped(made: Objective, micro_batches: int) -> tuple[Any, Any]:
    """Returns the compiled step, and what it gives for a batch of 16 rows."""
    given = batch(rows=16)
    given["weight"] = given["weight"].at[3].set(0.0)
    arguments = (made.frozen, make_schedule(SETTINGS, STEPS), first(made), given, rng.root_key(0))
    step = jax.jit(pure_step(made, SETTINGS, micro_batches=micro_batches))
    compiled: Any = step.lower(*arguments).compile()
    return compiled, compiled(*arguments)


def test_a_teacher_at_hand_reads_one_micro_batch_at_a_time():
    width = 1 << 14
    whole, (state, sums) = stepped(taught(width), 1)
    for parts in (2, 4):
        compiled, (parted, others) = stepped(taught(width), parts)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), sums, others)
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, state.optimizer.first, parted.optimizer.first)
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * width * 4  # all rows' in float32
    assert compiled.cost_analysis()["flops"] < whole.cost_analysis()["flops"] / 2


def test_a_float32_model_is_scored_in_float32_on_any_hardware():
    mesh = make_mesh(config_lib.Mesh(), jax.devices()[:1])
    for dtype, asked in (("float32", True), ("bfloat16", False)):
        made = dataclasses.replace(objective(), config=dataclasses.replace(SHAPE, dtype=dtype))
        params = made.init(rng.root_key(0))
        at = sharding.assign(params, sharding.RULES, mesh)
        step = make_evaluation_step(made, mesh=mesh, param_sharding=at)
        text = str(jax.make_jaxpr(step)(params, batch(), rng.root_key(0)))
        assert "dot_general" in text and ("HIGHEST" in text) == asked
