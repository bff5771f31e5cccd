"""Several runs trained in one program: the training step under `vmap` over learning rates, states,
batches and seeds.

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

from pd_jax import config as config_lib
from pd_jax.objectives.objective import Batch, Objective, Sums
from pd_jax.parallel import sharding
from pd_jax.parallel.sharding import batch_sharding
from pd_jax.training import arrays, rng
from pd_jax.training.optim import Schedule
from pd_jax.training.state import TrainState
from pd_jax.training.step import Step, pure_step


@dataclasses.dataclass(frozen=True)
class ManyStep:
    """A jitted step over stacked schedules, states, batches and root keys, and how to stack states
    and to take one out.
    """

    jitted: Any
    frozen: Any
    stack: Callable[[Sequence[TrainState]], TrainState]
    take: Callable[[TrainState, int], TrainState]
    mesh: Mesh
    batch_at: NamedSharding

    def __call__(
        self, schedules: Schedule, states: TrainState, batch: Batch, roots: jax.Array
    ) -> tuple[TrainState, Sums]:
        """Returns every run's state after the step, and its batch's sums; `states` are donated."""
        return self.jitted(self.frozen, schedules, states, batch, roots)


def make_many_step(
    objective: Objective,
    optimizer: config_lib.Optimizer,
    *,
    mesh: Mesh,
    state_sharding: TrainState,
    micro_batches: int = 1,
    skip_nonfinite: bool = False,
) -> ManyStep:
    """Returns the step of runs that differ in their learning rates, state, batch and root key.

    The runs are the first axis of all arrays. A run's state and batch lie on the mesh as if alone.
    """
    step = jax.vmap(
        pure_step(objective, optimizer, micro_batches=micro_batches, skip_nonfinite=skip_nonfinite),
        in_axes=(None, 0, 0, 0, 0),
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    frozen_at = sharding.assign(objective.frozen, sharding.RULES, mesh)
    states_at = jax.tree.map(_behind_runs, state_sharding)
    batch_at = _behind_runs(batch_sharding(mesh))
    jitted = jax.jit(
        step,
        in_shardings=(frozen_at, everywhere, states_at, batch_at, everywhere),
        out_shardings=(states_at, everywhere),
        donate_argnums=2,
    )

    def stack(states: Sequence[TrainState]) -> TrainState:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def take(states: TrainState, index: jax.Array) -> TrainState:
        return jax.tree.map(lambda leaves: leaves[index], states)

    return ManyStep(
        jitted,
        objective.frozen,
        jax.jit(stack, out_shardings=states_at),
        jax.jit(take, in_shardings=(states_at, everywhere), out_shardings=state_sharding),
        mesh,
        batch_at,
    )


class StackedRuns:
    """The states of several runs on the devices, in one stack."""

    def __init__(
        self,
        many: ManyStep,
        alone: Sequence[Step],
        states: Sequence[TrainState],
        *,
        seeds: Sequence[int],
    ):
        """Stacks the states of runs whose steps alone would be `alone`."""
        self._many, self._alone = many, alone
        self._states = many.stack(states)
        self._roots = jnp.stack([rng.root_key(seed) for seed in seeds])
        schedules = jax.tree.map(lambda *each: np.stack(each), *[step.schedule for step in alone])
        self._schedules = arrays.replicate(schedules, many.mesh)

    def state(self, run: int) -> TrainState:
        """Returns a copy of one run's newest state, laid out as it would be alone."""
        return self._many.take(self._states, run)

    def norms(self, run: int) -> dict[str, jax.Array]:
        """Returns the norms of one run's newest state, by the first one's program."""
        return self._alone[0].jitted_norms(self._alone[run].placed_schedule, self.state(run))

    def step(self, batches: Sequence[Mapping[str, np.ndarray]]) -> Callable[[int], Sums]:
        """Dispatches one step of every run. Returns a function that waits for the step and returns
        one run's sums.
        """
        stacked = {
            name: jax.device_put(np.stack([batch[name] for batch in batches]), self._many.batch_at)
            for name in batches[0]
        }
        self._states, sums = self._many(self._schedules, self._states, stacked, self._roots)
        read = functools.cache(lambda: jax.device_get(sums))
        return lambda run: jax.tree.map(lambda values: values[run], read())


def _behind_runs(at: NamedSharding) -> NamedSharding:
    """Returns the sharding of such arrays stacked along a new, unsplit first axis."""
    return NamedSharding(at.mesh, PartitionSpec(None, *at.spec))
