"""Several runs trained in one program: the training step under `vmap` over states, batches, seeds
and learning rates.

Each run takes the very step that it would take alone (`step.pure_step`), with its own random keys
and its own batch; the runs share nothing but the program.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pd_jax import config as config_lib
from pd_jax.objectives.objective import Batch, Objective, Params, Sums
from pd_jax.parallel import sharding
from pd_jax.parallel.sharding import batch_sharding
from pd_jax.training import rng
from pd_jax.training.optim import make_optimizer
from pd_jax.training.state import TrainState
from pd_jax.training.step import norms, pure_step


@dataclasses.dataclass(frozen=True)
class ManyStep:
    """A jitted step over stacked states, batches, root keys and learning rates, and how to stack
    states and to take one out.
    """

    jitted: Any
    frozen: Any
    stack: Callable[[Sequence[TrainState]], TrainState]
    take: Callable[[TrainState, int], TrainState]
    norms: Callable[[TrainState, Float[Array, ""]], dict[str, jax.Array]]
    """Of one run's state and learning rate what `step.norms` returns."""
    batch_at: NamedSharding

    def __call__(
        self, states: TrainState, batch: Batch, roots: jax.Array, rates: Float[Array, " runs"]
    ) -> tuple[TrainState, Sums]:
        """Returns every run's state after the step, and its batch's sums; `states` are donated."""
        return self.jitted(self.frozen, states, batch, roots, rates)


def make_many_step(
    objective: Objective,
    optimizer: config_lib.Optimizer,
    *,
    steps: int,
    mesh: Mesh,
    state_sharding: TrainState,
    micro_batches: int = 1,
    skip_nonfinite: bool = False,
) -> ManyStep:
    """Returns the step of runs that differ in their state, batch, root key and learning rate.

    The runs are the first axis of all arrays. A run's state and batch lie on the mesh as if alone;
    `optimizer.learning_rate` is not read.
    """
    step = _every_run(
        objective,
        optimizer,
        steps=steps,
        micro_batches=micro_batches,
        skip_nonfinite=skip_nonfinite,
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    frozen_at = sharding.assign(objective.frozen, sharding.RULES, mesh)
    states_at = jax.tree.map(_behind_runs, state_sharding)
    batch_at = _behind_runs(batch_sharding(mesh))
    jitted = jax.jit(
        step,
        in_shardings=(frozen_at, states_at, batch_at, everywhere, everywhere),
        out_shardings=(states_at, everywhere),
        donate_argnums=1,
    )

    def stack(states: Sequence[TrainState]) -> TrainState:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def take(states: TrainState, index: jax.Array) -> TrainState:
        return jax.tree.map(lambda leaves: leaves[index], states)

    def newest(state: TrainState, rate: Float[Array, ""]) -> dict[str, jax.Array]:
        return norms(make_optimizer(optimizer, steps, peak=rate), state)

    return ManyStep(
        jitted,
        objective.frozen,
        jax.jit(stack, out_shardings=states_at),
        jax.jit(take, in_shardings=(states_at, everywhere), out_shardings=state_sharding),
        jax.jit(newest, in_shardings=(state_sharding, everywhere), out_shardings=everywhere),
        batch_at,
    )


def _every_run(
    objective: Objective, optimizer: config_lib.Optimizer, *, steps: int, **options: Any
) -> Callable[[Params, TrainState, Batch, jax.Array, Float[Array, " runs"]], tuple]:
    """Returns `step(frozen, states, batches, roots, rates) -> (states, sums)`, pure."""

    def alone(
        frozen: Params, state: TrainState, batch: Batch, root: jax.Array, rate: Float[Array, ""]
    ) -> tuple[TrainState, Sums]:
        step = pure_step(objective, make_optimizer(optimizer, steps, peak=rate), **options)
        return step(frozen, state, batch, root)

    return jax.vmap(alone, in_axes=(None, 0, 0, 0, 0))


class StackedRuns:
    """The states of several runs on the devices, in one stack."""

    def __init__(
        self,
        step: ManyStep,
        states: Sequence[TrainState],
        *,
        seeds: Sequence[int],
        learning_rates: Sequence[float],
    ):
        self._step = step
        self._states = step.stack(states)
        self._roots = jnp.stack([rng.root_key(seed) for seed in seeds])
        self._rates = jnp.asarray(learning_rates, jnp.float32)

    def state(self, run: int) -> TrainState:
        """Returns a copy of one run's newest state, laid out as it would be alone."""
        return self._step.take(self._states, run)

    def norms(self, run: int) -> dict[str, jax.Array]:
        """Returns the norms of one run's newest state."""
        return self._step.norms(self.state(run), self._rates[run])

    def step(self, batches: Sequence[Mapping[str, np.ndarray]]) -> Callable[[int], Sums]:
        """Dispatches a step of every run, each on its batch; returns what waits for it, and gives
        a run's sums on the host.
        """
        stacked = {
            name: jax.device_put(np.stack([batch[name] for batch in batches]), self._step.batch_at)
            for name in batches[0]
        }
        self._states, sums = self._step(self._states, stacked, self._roots, self._rates)
        read = functools.cache(lambda: jax.device_get(sums))
        return lambda run: jax.tree.map(lambda values: values[run], read())


def _behind_runs(at: NamedSharding) -> NamedSharding:
    """Returns the sharding of as many such arrays stacked in front, each laid out as before."""
    return NamedSharding(at.mesh, PartitionSpec(None, *at.spec))
