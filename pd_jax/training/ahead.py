"""The training step compiled ahead of time, for shapes instead of arrays."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from pd_jax import config as config_lib
from pd_jax.errors import MeshError, first_line
from pd_jax.objectives.objective import Objective
from pd_jax.parallel import hlo, sharding
from pd_jax.parallel import mesh as mesh_lib
from pd_jax.training import rng
from pd_jax.training.state import TrainState
from pd_jax.training.step import check_batch, first_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Ahead:
    """A lowered step, and the shapes and places of its state."""

    lowered: jax.stages.Lowered
    state: TrainState
    places: TrainState

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters and optimiser state on one device."""
        pairs = zip(jax.tree.leaves(self.state), jax.tree.leaves(self.places), strict=True)
        return sum(
            leaf.dtype.itemsize * math.prod(place.shard_shape(leaf.shape)) for leaf, place in pairs
        )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's figures for a step on one device: bytes, FLOPs, kernels, and traffic."""

    seconds: float
    argument_bytes: int
    result_bytes: int
    temporary_bytes: int
    code_bytes: int
    peak_bytes: int
    flops: float
    accessed_bytes: float
    """The compiler's sum over operations, on-chip memory included."""
    kernels: int
    """Operations of the step that do work: what a GPU's host launches."""
    collectives: dict[str, hlo.Traffic]

    @property
    def moved_bytes(self) -> int:
        """The least traffic with memory: arguments read, results written, temporaries both."""
        return self.argument_bytes + self.result_bytes + 2 * self.temporary_bytes


class DoesNotFit(MeshError):
    """A step that needs more memory than a device has."""


def lower(
    objective: Objective,
    stage: config_lib.TrainStage,
    *,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    steps: int,
    mesh: Any,
    platform: str,
) -> Ahead:
    """Returns a stage's step, the one that training runs, lowered for a Mesh or AbstractMesh.

    Raises:
      MeshError: with the arithmetic, where batch, heads or parameters do not divide over the mesh.
    """
    check_batch(stage.data.batch, micro_batches=stage.compute.micro_batches, mesh=mesh)
    mesh_lib.check_heads(objective.config.heads, mesh)
    key = jax.eval_shape(lambda: rng.root_key(stage.seed))
    state = jax.eval_shape(lambda key: first_state(objective.init(key)), key)
    places = sharding.assign(state, sharding.RULES, mesh)
    step: Any = make_train_step(
        objective,
        stage.optimizer,
        steps=steps,
        mesh=mesh,
        state_sharding=places,
        micro_batches=stage.compute.micro_batches,
    )
    with _entered(mesh):
        lowered = step.trace(state, dict(batch), key).lower(lowering_platforms=(platform,))
    return Ahead(lowered, state, places)


def batch_shapes(objective: Objective, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch of the feed, with the objective's own inputs."""
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return {
        **dict.fromkeys(("input_ids", "segment_ids", "input_mask"), tokens),
        "weight": jax.ShapeDtypeStruct((rows,), jnp.float32),
        **{
            name: jax.ShapeDtypeStruct((rows, *of_row.shape), of_row.dtype)
            for name, of_row in objective.inputs.items()
        },
    }


def compile_step(ahead: Ahead) -> Compiled:
    """Returns the compiler's figures for a lowered step.

    Raises:
      DoesNotFit: with the compiler's figures, where there is not enough memory.
    """
    started = time.monotonic()
    try:
        compiled = ahead.lowered.compile()
    except jax.errors.JaxRuntimeError as fault:
        if "RESOURCE_EXHAUSTED" not in str(fault):
            raise
        sizes = re.search(
            r"[Uu]sed \S+ of \S+ hbm|\(\S+\) exceeds available HBM \(\S+\)", str(fault)
        )
        raise DoesNotFit(
            f"the step does not fit ({sizes[0] if sizes else first_line(fault)}); "
            "raise compute.micro_batches, set compute.remat, or split parameters by run.mesh.fsdp"
        ) from None
    memory: Any = compiled.memory_analysis()
    cost, text = compiled.cost_analysis() or {}, compiled.as_text() or ""
    # Donated arguments share their bytes with the results.
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        seconds=time.monotonic() - started,
        argument_bytes=memory.argument_size_in_bytes,
        result_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes
        + fresh
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        flops=cost.get("flops", 0.0),
        accessed_bytes=cost.get("bytes accessed", 0.0),
        kernels=hlo.kernels(text),
        collectives=hlo.collectives(text),
    )


def _entered(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager:
    if isinstance(mesh, AbstractMesh):
        return jax.sharding.use_abstract_mesh(mesh)
    return jax.set_mesh(mesh)
