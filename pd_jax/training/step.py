"""The one training step: pure, jitted over a mesh, state donated. Jobs differ only in the
objective.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pd_jax import config as config_lib
from pd_jax.errors import MeshError
from pd_jax.objectives.objective import Batch, Objective, Params, Sums
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import row_places
from pd_jax.parallel.sharding import batch_sharding
from pd_jax.training import arrays, rng
from pd_jax.training.optim import AdamW, Schedule, first_moments, make_schedule
from pd_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted step over a mesh, with its objective's frozen parameters and its run's learning
    rates.
    """

    jitted: Any
    frozen: Any
    schedule: Schedule
    mesh: Mesh
    jitted_norms: Any

    @functools.cached_property
    def placed_schedule(self) -> Schedule:
        """The learning rates' numbers on the mesh, whose devices must be here."""
        return arrays.replicate(self.schedule, self.mesh)

    def __call__(self, state: TrainState, batch: Batch, root: jax.Array) -> tuple[TrainState, Sums]:
        """Returns the state after the step, and the batch's sums."""
        return self.jitted(self.frozen, self.placed_schedule, state, batch, root)

    def trace(self, state: Any, batch: Any, root: Any) -> jax.stages.Traced:
        """Returns the step traced for arrays or for shapes."""
        return self.jitted.trace(self.frozen, self.schedule, state, batch, root)

    def norms(self, state: TrainState) -> dict[str, jax.Array]:
        """Returns the norms of a state, by a program of their own."""
        return self.jitted_norms(self.placed_schedule, state)


def first_state(params: Params) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, first_moments(params), jnp.ones((), bool))


def pure_step(
    objective: Objective,
    optimizer: config_lib.Optimizer,
    *,
    micro_batches: int = 1,
    skip_nonfinite: bool = False,
) -> Callable[[Params, Schedule, TrainState, Batch, jax.Array], tuple[TrainState, Sums]]:
    """Returns `step(frozen, schedule, state, batch, root) -> (state, sums)`.

    The gradient is that of the whole batch's loss, whatever the number of micro-batches. A step
    whose loss or gradient is not finite changes nothing but `state.healthy`, and no later step
    changes anything: the state before the fault is kept. With `skip_nonfinite` it changes nothing
    but `state.step`, and later steps go on. Either way `sums["healthy"]` shows it.
    """
    adamw = AdamW(optimizer)

    def step(
        frozen: Params, schedule: Schedule, state: TrainState, batch: Batch, root: jax.Array
    ) -> tuple[TrainState, Sums]:
        batch = objective.prepare(batch, rng.stream(root, "prepare", state.step))
        key = rng.stream(root, "dropout", state.step)
        grads, sums = _gradients(objective, frozen, state.params, batch, key, micro_batches)
        norm = optax.tree.norm(grads)
        healthy = state.healthy & jnp.isfinite(norm)
        for name in objective.terms:
            healthy &= jnp.isfinite(sums[name][0])
        rate = schedule(state.optimizer.count)
        params, moments = adamw.update(
            grads, state.optimizer, state.params, rate=rate, norm=norm, healthy=healthy
        )
        sums |= {
            "gradient_norm": _single(norm),
            "learning_rate": _single(rate),
            "healthy": _single(healthy),
        }
        if skip_nonfinite:
            return TrainState(state.step + 1, params, moments, state.healthy), sums
        return TrainState(state.step + healthy.astype(jnp.int32), params, moments, healthy), sums

    return step


def norms(
    optimizer: config_lib.Optimizer, schedule: Schedule, state: TrainState
) -> dict[str, jax.Array]:
    """Returns the norms of the parameters and of their newest update.

    Run in a program of its own, and only when a line of metrics is due. Every step, it would double
    the optimiser's memory traffic; as a condition inside the step, it would make a GPU's host wait.
    """
    moments, rate = state.optimizer, schedule(state.optimizer.count - 1)
    update = AdamW(optimizer).last_update(moments, state.params, rate=rate)
    return {
        "parameter_norm": optax.tree.norm(state.params),
        "update_norm": optax.tree.norm(update),
    }


def make_train_step(
    objective: Objective,
    optimizer: config_lib.Optimizer,
    *,
    steps: int,
    mesh: Mesh,
    state_sharding: TrainState,
    micro_batches: int = 1,
    skip_nonfinite: bool = False,
) -> Step:
    """Returns `step(state, batch, root) -> (state, sums)`: `pure_step` of a run of `steps` over a
    mesh, its state donated.
    """
    step = pure_step(
        objective,
        optimizer,
        micro_batches=micro_batches,
        skip_nonfinite=skip_nonfinite,
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    frozen_at = sharding.assign(objective.frozen, sharding.RULES, mesh)
    jitted = jax.jit(
        step,
        in_shardings=(frozen_at, everywhere, state_sharding, batch_sharding(mesh), everywhere),
        out_shardings=(state_sharding, everywhere),
        donate_argnums=2,
    )
    jitted_norms = jax.jit(
        functools.partial(norms, optimizer),
        in_shardings=(everywhere, state_sharding),
        out_shardings=everywhere,
    )
    return Step(jitted, objective.frozen, make_schedule(optimizer, steps), mesh, jitted_norms)


def make_evaluation_step(objective: Objective, *, mesh: Mesh, param_sharding: Any) -> Callable:
    """Returns `(params, batch, key) -> (sums, logits or None)`, without dropout; outputs are the
    same everywhere.

    A float32 model computes in float32 on any hardware, as did the teachers whose stored logits it
    is scored against (`stages/predict.on_mesh`): TF32 alone would look like a difference.
    """
    precision = "float32" if objective.config.dtype == "float32" else None

    def step(
        frozen: Params, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[Sums, jax.Array | None]:
        with jax.default_matmul_precision(precision):
            prepared = objective.teach(frozen, objective.prepare(batch, key))
            logits = None if objective.predict is None else objective.predict(params, batch)
            return objective.sums(params, prepared, None), logits

    everywhere = NamedSharding(mesh, PartitionSpec())
    frozen_at = sharding.assign(objective.frozen, sharding.RULES, mesh)
    jitted = jax.jit(
        step,
        in_shardings=(frozen_at, param_sharding, batch_sharding(mesh), everywhere),
        out_shardings=everywhere,
    )
    return functools.partial(jitted, objective.frozen)


def check_batch(batch: int, *, micro_batches: int, mesh: Mesh) -> None:
    """Raises MeshError unless the batch divides over the mesh's rows and the micro-batches."""
    rows = row_places(mesh)
    if batch % (rows * micro_batches):
        raise MeshError(
            f"data.batch={batch} does not divide by data x fsdp x micro_batches = "
            f"{mesh.shape['data']} x "
            f"{mesh.shape['fsdp']} x {micro_batches} = {rows * micro_batches}; make it a multiple "
            "of that"
        )


def _gradients(
    objective: Objective,
    frozen: Params,
    params: Params,
    batch: Batch,
    key: jax.Array,
    micro_batches: int,
) -> tuple[Any, Sums]:
    """Returns the gradient of the batch's loss and its sums.

    An online teacher reads one micro-batch after the other: its outputs for every token of a full
    batch would not fit.
    """

    def loss(
        params: Params, part: Batch, key: jax.Array, counts: dict | None
    ) -> tuple[jax.Array, Sums]:
        sums = objective.sums(params, objective.teach(frozen, part), key)
        total = jnp.zeros((), jnp.float32)
        for name, weight in objective.terms.items():
            count = sums[name][1] if counts is None else counts[name]
            total += weight * sums[name][0] / jnp.maximum(count, 1.0)
        return total, sums

    if micro_batches == 1:
        return jax.grad(loss, has_aux=True)(params, batch, key, None)

    # Counts depend on no model, so XLA drops these forward passes and keeps the counting.
    whole = objective.sums(params, objective.teach(frozen, batch), None)
    counts = {name: whole[name][1] for name in objective.terms}
    parts = jax.tree.map(lambda rows: _split(rows, micro_batches), batch)

    def accumulate(carry: tuple, indexed: tuple) -> tuple[tuple, None]:
        index, part = indexed
        found = jax.grad(loss, has_aux=True)(params, part, jax.random.fold_in(key, index), counts)
        return jax.tree.map(jnp.add, carry, found), None

    shapes = jax.eval_shape(
        lambda: jax.grad(loss, has_aux=True)(
            params, jax.tree.map(lambda x: x[0], parts), key, counts
        )
    )
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(accumulate, zeros, (jnp.arange(micro_batches), parts))[0]


def _split(rows: jax.Array, parts: int) -> jax.Array:
    """Returns [parts, rows / parts, ...] such that every device keeps the rows it has."""
    return rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]).swapaxes(0, 1)


def _single(value: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32)
