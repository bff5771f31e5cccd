"""What training changes and a checkpoint holds."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step count, parameters, optimiser state, and whether every step so far was finite.

    Trees of shapes or shardings pass through the same fields.
    """

    step: Any
    params: Any
    optimizer: Any
    healthy: Any
