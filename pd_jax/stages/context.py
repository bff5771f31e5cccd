"""What every kind of stage is given, and what it hands back."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax.parallel import distributed

OUTPUT = {
    "synthetic": "text",
    "tokenizer": "tokenizer",
    "records": "records",
    "train": "model",
    "label": "logits",
    "export": "export",
    "compare": "comparison",
}
"""Kind of stage -> the folder inside its own that `@name` stands for."""


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a stage runs: its name, its folder, and how the run is carried out."""

    name: str
    folder: epath.Path
    run: config_lib.Run

    def output(self, kind: str) -> epath.Path:
        """Returns the folder that other stages will read."""
        return self.folder / OUTPUT[kind]

    def warn(self, message: str) -> None:
        """Tells the user, on stderr, what they should know and need not act on."""
        if distributed.is_writer():
            print(f"warning: stage {self.name}: {message}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Done:
    """What a finished stage says of itself in `done.json`."""

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    """Seconds over all sessions of the stage; None where only this session counts."""
    steps: int = 0
    examples: int = 0
    parameters: int = 0
    megabytes: float = 0.0
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    utilisation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """How well the devices were used (`training/utilisation.py`); empty for what trains nothing."""
