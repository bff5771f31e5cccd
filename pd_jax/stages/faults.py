"""A stage's fault as shown to its user: lack of space or memory, with a remedy."""

from collections.abc import Iterable
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import (
    NO_MEMORY_OF_TORCH,
    LogitsError,
    PdError,
    RecordsError,
    StageError,
    TokenizerError,
    WeightsError,
    no_memory,
    no_space,
)

_DAMAGE = (RecordsError, LogitsError, TokenizerError, WeightsError)


def with_remedy(
    fault: Exception,
    name: str,
    stage: Any,
    folder: epath.Path,
    *,
    inputs: Iterable[epath.Path] = (),
) -> Exception:
    """Returns what ended a stage: StageError for lack of space or memory, else the fault itself.

    Where a file of another stage is at fault (`inputs` are the folders of the stages that this one
    reads), the fault also says how to have that stage run again.
    """
    if isinstance(fault, PdError):
        made = next((made for made in inputs if f"{made}/" in str(fault)), None)
        if made is None or not isinstance(fault, _DAMAGE):
            return fault
        how = f"if a file there is damaged, remove {made} and run the same command again"
        return type(fault)(f"{fault} ({how})").with_traceback(fault.__traceback__)
    if message := no_space(fault):
        error = StageError(
            f"stage {name!r} could not write all of {folder} ({message}); finished files are kept: "
            "free some space there and run the same command again"
        )
    elif message := no_memory(fault):
        error = _out_of_memory(name, stage, message)
    else:
        return fault
    error.__cause__ = fault
    return error


def _out_of_memory(name: str, stage: Any, message: str) -> StageError:
    """Returns the error of a stage that lacked memory, as a `message` says."""
    of_torch = any(text in message for text in NO_MEMORY_OF_TORCH)
    if isinstance(stage, config_lib.LabelStage) and of_torch:
        return StageError(
            f"the teacher of stage {name!r} does not fit into the GPU's memory ({message}), of"
            " which JAX takes most where it uses the GPU itself; run the stage with"
            f" JAX_PLATFORMS=cpu and --stages={name}, which leaves the GPU to the teacher, or"
            " lower its batch"
        )
    training = isinstance(stage, config_lib.TrainStage)
    more = ", raise compute.micro_batches or set compute.remat" if training else ""
    return StageError(
        f"stage {name!r} does not fit into memory ({message}); lower its batch{more}, or free "
        "memory used by other processes"
    )
