"""A pipeline's record in its workdir, `pipelines/NAME.json`, by which reports find its stages."""

import json
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.config import reading
from pd_jax.errors import LockError, StageError
from pd_jax.jobs import Outcome
from pd_jax.parallel import distributed
from pd_jax.workdir import CHECKPOINTS, DONE, OUTPUT, PIPELINES, STAGES


class Record:
    """The state of a pipeline's stages while it runs; `write` saves it."""

    def __init__(self, workdir: epath.Path, pipeline: config_lib.Pipeline, command: str):
        self.faults: dict[str, str] = {}
        self._path = workdir / PIPELINES / f"{pipeline.name}.json"
        self._workdir = workdir
        self._status: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._config = reading.to_json(pipeline)
        rows = dict(pipeline.report.rows)
        self._fixed = {
            "name": pipeline.name,
            "command": command,
            "report": {**self._config["report"], "rows": rows},
        }

    def is_kept(self) -> bool:
        """Returns whether the workdir's record is of a pipeline with this config."""
        if not self._path.exists():
            return False
        return files.read_json(self._path, StageError).get("config") == self._config

    def check_unchanged(self, *, changed: bool) -> None:
        """Refuses a workdir where a stage was trained, labelled or completed with another config,
        unless `changed`.

        Added stages do not count as a change: that is how a study grows. Nor does a mistake that is
        corrected before its stage has anything to lose.
        """
        if changed or not self._path.exists():
            return
        kept = files.read_json(self._path, StageError)
        before = {
            name: stage
            for name, stage in kept["config"]["stages"].items()
            if _has_work(self._workdir / kept["stages"].get(name, STAGES))
        }
        now = {name: self._config["stages"].get(name) for name in before}
        difference = differences(before, now)
        if difference:
            shown = "; ".join(difference[:5]) + (
                f"; and {len(difference) - 5} more" if len(difference) > 5 else ""
            )
            raise StageError(
                f"{self._workdir} was made with another config ({shown}); choose another "
                "--workdir, or add --changed to keep the stages that are equal and run the others "
                "again"
            )

    def place(self, name: str, folder: epath.Path, *, done: bool) -> None:
        """Records where a stage lives, and whether it is done."""
        self._folders[name] = str(folder.relative_to(self._workdir))
        self._status[name] = "done" if done else "waiting"

    def leave(self, name: str) -> None:
        """Keeps what an earlier record says of a stage that this run does not know the place of."""
        known = files.read_json(self._path, StageError) if self._path.exists() else {}
        self._folders[name] = known.get("stages", {}).get(name, f"{STAGES}/{name}")
        self._status[name] = known.get("status", {}).get(name, "waiting")

    def settle(self, outcome: Outcome) -> None:
        """Records the outcome of a stage.

        One that another process runs stays "waiting", and continues later.
        """
        if outcome.lacks is not None:
            self.faults[outcome.name] = f"It needs {outcome.lacks}, which has no result."
        elif outcome.fault is not None and not isinstance(outcome.fault, LockError):
            self._status[outcome.name] = "failed"
            self.faults[outcome.name] = str(outcome.fault) or type(outcome.fault).__name__

    def write(self) -> None:
        """Writes the record, from one process."""
        if distributed.is_writer():
            content = {
                **self._fixed,
                "stages": self._folders,
                "status": self._status,
                "faults": self.faults,
                "config": self._config,
            }
            files.write_json(self._path, content)


def _has_work(folder: epath.Path) -> bool:
    return any((folder / made).exists() for made in (DONE, CHECKPOINTS, OUTPUT["label"]))


def differences(before: Any, after: Any, path: str = "stages") -> list[str]:
    """Returns `key was A, is B` for every leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in sorted(before.keys() | after.keys()):
            found += differences(before.get(key), after.get(key), f"{path}.{key}")
        return found
    if before == after:
        return []
    return [f"{path} was {json.dumps(before)[:60]}, is {json.dumps(after)[:60]}"]
