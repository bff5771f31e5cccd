"""The input and the result that all kinds of stage have in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax.parallel import distributed
from pd_jax.progress import warn
from pd_jax.workdir import OUTPUT


@dataclasses.dataclass(frozen=True)
class Context:
    """What a stage is run with: its name, its folder, and the settings of the run."""

    name: str
    folder: epath.Path
    run: config_lib.Run

    def output(self, kind: str) -> epath.Path:
        """Returns the folder that other stages will read."""
        return self.folder / OUTPUT[kind]

    def warn(self, message: str) -> None:
        """Prints a warning to stderr: something to know that needs no action."""
        if distributed.is_writer():
            warn(f"stage {self.name}: {message}")


@dataclasses.dataclass(frozen=True)
class Done:
    """What a finished stage records in `done.json`."""

    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    """Seconds over all sessions of the stage, as the stage counted them; None where nothing but its
    sessions' own length is known.
    """
    steps: int = 0
    examples: int = 0
    parameters: int = 0
    megabytes: float = 0.0
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scratch: tuple[epath.Path, ...] = ()
    """Folders that only an unfinished stage needs, to be removed once `done.json` is written."""
    utilisation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """How well the devices were used (`training/utilisation.py`); empty without training."""
