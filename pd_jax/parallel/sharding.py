"""Where arrays live on a mesh."""

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")
"""A batch's rows are spread over both axes; `tensor` splits parameters only."""


def constrain_batch(array: jax.Array) -> jax.Array:
    """Returns `array` held to row-sharding over the current mesh; without it XLA may replicate activations."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    spec = PartitionSpec(BATCH_AXES, *(None,) * (array.ndim - 1))
    return jax.lax.with_sharding_constraint(array, spec)
