"""Checkpoints: asynchronous, atomic, and verified by our own digests when they are read.

Orbax writes a step's folder under a temporary name and renames it when it is complete. It does not
notice a flipped bit in the data, so every array's digest (`training/digest.py`) is stored with it
and compared after a restore.
"""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from pd_jax import files
from pd_jax.errors import (
    CheckpointError,
    MeshError,
    PeerError,
    causes,
    first_line,
    sentence_of,
)
from pd_jax.parallel import distributed
from pd_jax.parallel.sharding import parameter_name
from pd_jax.training.digest import leaf_digests
from pd_jax.training.state import TrainState

Note = Mapping[str, Any]
"""What a checkpoint stores besides the state, as JSON: step, seconds spent, best evaluation."""

_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.ENOSPC)
_NO_DAMAGE_TEXTS = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""The words of XLA and tensorstore for faults of the machine."""
_DAMAGE, _PASSING, _FINAL = 1, 2, 3
"""The faults that a process may meet while reading; the worst of all processes decides."""


def quiet_failed_saves() -> None:
    """Keeps off the terminal what Orbax leaves behind after a failed save: threads that speak to
    its closed event loop, and writes that it never began.

    Nobody can catch that; the failure itself is raised by the save or the wait that follows it.
    """
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """The checkpoints of one training stage."""

    def __init__(self, folder: epath.Path, *, keep: int, warn: Callable[[str], None]):
        if not files.is_remote(folder):
            folder = epath.Path(os.path.abspath(folder))  # Orbax takes absolute paths only
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._warn = warn
        self._pending: tuple[int, Any] | None = None
        # Orbax declares its policies as a protocol that its own classes do not match by name.
        newest: Any = ocp.training.preservation_policies.LatestN(keep)
        try:
            self._orbax = ocp.training.Checkpointer(
                folder,
                preservation_policy=newest,
                cleanup_tmp_directories=True,
            )
        except (ValueError, TypeError, OverflowError) as fault:  # of a checkpoint's description
            raise CheckpointError(
                f"the checkpoints in {folder} cannot be listed ({first_line(fault)}); move the "
                "newest one away and run the same command again"
            ) from fault

    @property
    def latest_step(self) -> int | None:
        """The newest step that has a whole checkpoint, verified or not."""
        return None if self._orbax.latest is None else self._orbax.latest.step

    @property
    def oldest_step(self) -> int | None:
        """The oldest step that has a whole checkpoint, verified or not."""
        return min((known.step for known in self._orbax.checkpoints), default=None)

    def save(self, step: int, state: TrainState, note: Note) -> None:
        """Begins to save `state` as the checkpoint of `step`; returns as soon as the arrays were
        copied.

        Raises:
          CheckpointError: the previous save failed, or this one cannot start; earlier checkpoints
            are untouched.
        """
        self.wait()
        sealed = {"note": dict(note), "digests": leaf_digests(state)}
        sealed["digest"] = files.digest_json(sealed)
        try:
            self._pending = (
                step,
                self._orbax.save_async(step, state, custom_metadata=sealed, force=True),
            )
        except OSError as fault:
            raise self._failed(step, fault) from fault

    def wait(self) -> None:
        """Waits until the last save is on disk; raises CheckpointError if it failed."""
        if self._pending is None:
            return
        step, response = self._pending
        self._pending = None
        try:
            response.result()
        except Exception as fault:  # Orbax wraps what its writer threads raise in several types.
            raise self._failed(step, fault) from fault

    def restore(self, like: TrainState) -> tuple[TrainState, Note] | None:
        """Returns the newest checkpoint that is complete and matches its digests, with the layout
        of `like`; None without any. Every process returns the checkpoint of the same step.

        Once it is read, damaged newer ones are reported and moved to `damaged_checkpoints/`.

        Raises:
          CheckpointError: there are checkpoints, and none can be read, or the newest is of a model
            with other parameters; all stay in place.
          MeshError: another process met a fault of its machine.
          Exception: a fault of this machine, such as a lack of memory; all stay in place.
        """
        damaged: dict[int, str] = {}
        for step in reversed([known.step for known in self._orbax.checkpoints]):
            try:
                restored = self._load(step, like)
            except _Damaged as fault:
                damaged[step] = str(fault)
            else:
                self._set_aside(damaged)
                return restored
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise CheckpointError(
                f"all {len(damaged)} checkpoints in {self._folder} are damaged or unreadable "
                f"({reasons}) and were left in place; fix that, or move the folder away to train "
                "this stage from scratch, and run the same command again"
            )
        return None

    def close(self) -> None:
        """Finishes the last save and releases Orbax's threads."""
        self.wait()
        self._orbax.close()

    def _load(self, step: int, like: TrainState) -> tuple[TrainState, Note]:
        """Returns a checkpoint; raises _Damaged, or a fault of the machine, on every process."""
        with _same_everywhere():
            metadata: Any = self._orbax.metadata(step).custom_metadata
            sealed: dict[str, Any] = dict(metadata or {})
            if sealed.pop("digest", None) != files.digest_json(sealed):
                raise CheckpointError("its metadata does not match its digest")
            if not isinstance(sealed.get("note"), dict):
                raise CheckpointError("its metadata has no note")
            held = frozenset(sealed["digests"])
        self._check_names(step, held, like)
        with _same_everywhere():
            state: Any = self._orbax.load(step, like)
        with _same_everywhere():
            found = leaf_digests(state)
            for name, digest in sealed["digests"].items():
                if found.get(name) != digest:
                    raise CheckpointError(f"array {name} does not match its digest")
        return state, sealed["note"]

    def _check_names(self, step: int, held: frozenset[str], like: TrainState) -> None:
        """Raises CheckpointError where a whole checkpoint has other arrays than `like`: that is no
        damage, and older ones have them too.
        """
        leaves = jax.tree_util.tree_leaves_with_path(like)
        differ = held ^ {parameter_name(path) for path, _ in leaves}
        if differ:
            # The moments of a parameter differ with it, and say less.
            first = min(differ, key=lambda name: (not name.startswith("params/"), name))
            there, here = ("has", "has not") if first in held else ("has not", "has")
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._folder} {there} {first}, which this "
                f"stage's model {here}: another version of pd_jax trained it; continue with that "
                "one, or move the folder away to train this stage from scratch"
            )

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Reports and moves checkpoints, by step and reason; every process then lists the rest."""
        if not damaged:
            return
        for step, reason in damaged.items():
            self._warn(f"checkpoint {self._folder / str(step)} is damaged ({reason}); not used")
        aside = self._folder.parent / "damaged_checkpoints"
        with distributed.all_or_none("moving damaged checkpoints away"):
            for step, reason in damaged.items() if distributed.is_writer() else ():
                # A file: in a bucket, a folder without one does not exist, and takes no other.
                files.write_text(aside / f"{step}.txt", f"{reason}\n")
                target = aside / str(step)
                if target.exists():
                    target.rmtree()
                (self._folder / str(step)).rename(target)
        self._orbax.reload()

    def _failed(self, step: int, fault: Exception) -> CheckpointError:
        whole = self.latest_step
        kept = "no earlier one exists" if whole is None else f"the one of step {whole} is untouched"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self._folder} "
            f"({first_line(fault)}); {kept}: "
            "free some space there and run the same command again"
        )


class _Damaged(Exception):
    """Why a checkpoint cannot be read; raised on every process."""


@contextlib.contextmanager
def _same_everywhere() -> Iterator[None]:
    """Ends the block the same way on every process, whichever met a fault that may be damage.

    Raises:
      _Damaged: one did.
      MeshError: another process met a fault of its machine, which is raised there; PeerError where
        it may pass.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as raised:  # whatever damage raises in Orbax or tensorstore
        fault = raised
    mine = 0
    if fault is not None:
        mine = _DAMAGE if _may_be_damage(fault) else _FINAL if sentence_of(fault) else _PASSING
    worst = distributed.agree(mine)
    if fault is not None and mine > _DAMAGE:
        raise fault
    if worst > _DAMAGE:
        message = "reading a checkpoint failed in another process; see that process's message"
        raise MeshError(message) if worst == _FINAL else PeerError(message)
    if worst == _DAMAGE:
        reason = "another process cannot read it" if fault is None else first_line(_cause(fault))
        raise _Damaged(reason) from fault


def _may_be_damage(fault: BaseException) -> bool:
    """Returns whether neither a fault nor any of its causes shows that the machine is at fault."""
    return not any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno in _NO_DAMAGE)
        or any(text in str(cause) for text in _NO_DAMAGE_TEXTS)
        for cause in causes(fault)
    )


def _cause(fault: BaseException) -> BaseException:
    """Returns the first cause of a fault, which Orbax wraps in its own errors."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return fault
