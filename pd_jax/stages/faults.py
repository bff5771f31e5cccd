"""A stage's fault as its user meets it: want of space or memory with what to do about it."""

from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import PdError, StageError, no_memory, no_space


def with_remedy(fault: Exception, name: str, stage: Any, folder: epath.Path) -> Exception:
    """Returns what ended a stage: StageError for want of space or memory, else the fault itself."""
    if isinstance(fault, PdError):
        return fault
    if said := no_space(fault):
        told = StageError(
            f"stage {name!r} could not write all of {folder} ({said}); what was finished stays: "
            "free space there and run the same command again"
        )
    elif said := no_memory(fault):
        training = isinstance(stage, config_lib.TrainStage)
        more = ", raise compute.micro_batches or set compute.remat" if training else ""
        told = StageError(
            f"stage {name!r} does not fit into memory ({said}); lower its batch{more}, or free "
            "memory that others hold"
        )
    else:
        return fault
    told.__cause__ = fault
    return told
