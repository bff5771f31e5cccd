"""Processes that run one program together: finding each other, agreeing, and comparing."""

import contextlib
import importlib.util
import os
import pathlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np

from pd_jax import files
from pd_jax.errors import PREEMPTED_EXIT_CODE, MeshError, PeerError, first_line, sentence_of
from pd_jax.parallel import sentinel

WAIT_SECONDS = 300
"""How long processes wait for each other at the start; PD_JAX_WAIT_SECONDS overrides it."""

HEARTBEAT_SECONDS = 60
"""A process silent for so long is taken to be dead, and the others end themselves."""

SHUTDOWN_SECONDS = 100
"""How long a process that is done waits for the others before it ends with an error."""

_GRACE_SECONDS = 30
_SIGN_SECONDS = 60.0
_LOST = re.compile("Gloo.*failed|closed by peer|heartbeat|another task died", re.IGNORECASE)
_PASSING, _FINAL = 1, 2
_STALE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")


T = TypeVar("T")


class Explicit(NamedTuple):
    """Where the coordinator is and which process this is, from the PD_JAX_* variables."""

    address: str
    count: int
    index: int


Mode = Literal["auto", "on", "off"]


def initialise(mode: Mode = "auto") -> None:
    """Joins this process to the others; to be called once, before anything asks jax for devices.

    `auto` joins where the environment says that there are others: PD_JAX_COORDINATOR (host:port),
    PD_JAX_PROCESSES and PD_JAX_PROCESS_ID; Slurm, Open MPI, GKE and Cloud TPU VMs by their own
    variables. `on` insists on it, or on a launcher that says that there is one process; `off` stays
    alone. Where the others do not come in time, this process ends with PREEMPTED_EXIT_CODE: a later
    try may find them.

    Raises:
      MeshError: where the environment's settings are incomplete or impossible.
    """
    if mode == "off":
        return
    explicit = _explicit()
    cluster = None if explicit else _cluster()
    if not explicit and not cluster:
        if mode == "on" and 1 not in _counts().values():
            raise MeshError(
                "--distributed=on, but no setting names the other processes; start them with "
                "srun or mpirun, or set PD_JAX_COORDINATOR=host:port, PD_JAX_PROCESSES and "
                "PD_JAX_PROCESS_ID"
            )
        return
    _join(explicit, cluster)
    if jax.process_count() > 1:
        sentinel.speak_if_ended(
            f"error: process {jax.process_index()} of {jax.process_count()} was ended from outside:"
            " another process was lost, or this one was killed; run the same command again, on all"
            " hosts, to continue"
        )


def _join(explicit: Explicit | None, cluster: str | None) -> None:
    """Joins the processes that the environment names; ends this one where they do not come."""
    seconds = _wait_seconds()
    hint = _hint(explicit, cluster, seconds)
    # Where the others do not come, jax aborts this process from C++ with a stack for a message: the
    # timer ends it a little earlier with a sentence.
    timer = threading.Timer(seconds, _give_up, [hint])
    timer.daemon = True
    timer.start()
    # jax's preemption service would take SIGTERM from whoever handles it here, and tell only those
    # who ask it: a notice during any stage but training would be swallowed.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=explicit.address if explicit else None,
            num_processes=explicit.count if explicit else None,
            process_id=explicit.index if explicit else None,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=seconds + _GRACE_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except jax.errors.JaxRuntimeError as fault:  # of the connection
        _give_up(f"{hint} ({first_line(fault)})")
    except (RuntimeError, ValueError) as fault:
        raise MeshError(f"{hint} ({first_line(fault)})") from fault
    finally:
        timer.cancel()


@contextlib.contextmanager
def leaving_with_the_lost() -> Iterator[None]:
    """Ends this process where another one is gone, or failed in a way that a retry may fix.

    Where jax finds that one is gone, at once: Python's own exit would wait for it until jax aborts.
    """
    try:
        yield
    except PeerError as fault:
        print(f"error: {fault}", file=sys.stderr, flush=True)
        raise SystemExit(PREEMPTED_EXIT_CODE) from fault
    # A collective that fails while it is dispatched raises a plain ValueError.
    except (jax.errors.JaxRuntimeError, ValueError) as fault:
        if jax.process_count() > 1 and _LOST.search(str(fault)):
            _give_up(first_line(fault))
        raise


def describe() -> str:
    """Returns one line on this process: number, host, devices."""
    devices = jax.local_devices()
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}: "
        f"{len(devices)} of {jax.device_count()} devices ({devices[0].device_kind})"
    )


def is_writer() -> bool:
    """Returns whether this is the one process that writes logs, metrics and results."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """Returns the maximum over all processes. Collective: every process must call it."""
    return agree_each(value)[0]


def agree_each(*values: int) -> list[int]:
    """Returns the element-wise maximum over processes, in one collective; all must pass equally
    many values.
    """
    return _everyones(np.asarray(values, np.int32)).max(axis=0).tolist()


def from_writer(values: np.ndarray) -> np.ndarray:
    """Returns process 0's values on every process. Collective, with arrays of one shape."""
    return _everyones(values)[0]


@contextlib.contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """Ends the block when every process has reached its end: a fault of one is a fault of all.

    Raises:
      MeshError: where the block failed in another process, naming it.
      PeerError: likewise, where no process met a fault that the user must act on.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as raised:
        fault = raised
    ends = _everyones(np.asarray([_end_by(fault)], np.int32))
    if fault is not None:
        raise fault
    if ends.any():
        failed = ", ".join(map(str, np.flatnonzero(ends)))
        message = f"{what} failed in process {failed}; see that process's message"
        if (ends == _FINAL).any():
            raise MeshError(message)
        raise PeerError(f"{message}, and run the same command again, on all hosts")


def _end_by(fault: Exception | None) -> int:
    """Returns 0 without a fault, else whether a retry may fix it or the user must."""
    if fault is None:
        return 0
    return _FINAL if sentence_of(fault) and not isinstance(fault, PeerError) else _PASSING


def by_writer(what: str, work: Callable[[], T]) -> T | None:
    """Returns what `work` gives process 0; None on the others, which wait however long it takes.

    A collective waits half an hour at most (gloo's limit): process 0 gives a sign every minute.

    Raises:
      MeshError: on the others, where the work failed; PeerError as in `all_or_none`.
    """
    if jax.process_count() == 1:
        return work()
    result, ended = None, threading.Event()
    with all_or_none(what):
        if not is_writer():
            while not agree(0):
                pass
            return None

        def show_life() -> None:
            while not ended.wait(_SIGN_SECONDS):
                agree(0)

        signs = threading.Thread(target=show_life, daemon=True, name="signs of life")
        signs.start()
        try:
            result = work()
        finally:
            ended.set()
            signs.join()
            agree(1)
    return result


def barrier(name: str) -> None:
    """Returns when every process has come to the barrier of this name."""
    same_everywhere("the next step", name)


def same_everywhere(name: str, digest: str) -> None:
    """Raises MeshError, naming the processes, unless all have the same digest. Collective."""
    local = np.frombuffer(bytes.fromhex(files.digest_bytes(digest.encode())), np.uint8)
    everyones = _everyones(local.astype(np.int32))
    others = np.flatnonzero((everyones != everyones[0]).any(axis=1))
    if len(others):
        raise MeshError(
            f"{name} of process {', '.join(map(str, others))} differs from that of process 0; "
            "start all processes with the same command, code and files"
        )


def _everyones(values: np.ndarray) -> np.ndarray:
    """Returns [processes, ...], every process's values."""
    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def _explicit() -> Explicit | None:
    """Returns the values of the PD_JAX_* variables, or None where none is set."""
    names = ("PD_JAX_COORDINATOR", "PD_JAX_PROCESSES", "PD_JAX_PROCESS_ID")
    values = [os.environ.get(name, "") for name in names]
    if not any(values):
        return None
    for name, value in zip(names, values, strict=True):
        if not value or (name != names[0] and not value.isdecimal()):
            raise MeshError(f"{name}={value!r}; set all of {', '.join(names)} (host:port, 4, 0)")
    address, count, index = values[0], int(values[1]), int(values[2])
    if not address.rpartition(":")[2].isdecimal():
        raise MeshError(f"PD_JAX_COORDINATOR={address!r} has no port; write host:port")
    if index >= count:
        raise MeshError(
            f"PD_JAX_PROCESS_ID={index} is not below PD_JAX_PROCESSES={count}; number them from 0"
        )
    return Explicit(address, count, index)


def _cluster() -> str | None:
    """Returns the kind of cluster that started this process beside others, or None."""
    for kind, count in _counts().items():
        if count > 1:
            return kind
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    chips = any(pathlib.Path("/dev").glob("accel*")) or any(
        pathlib.Path("/dev/vfio").glob("[0-9]*")
    )
    if "tpu" in platforms and chips and importlib.util.find_spec("libtpu"):
        return "Cloud TPU"
    return None


def _counts() -> dict[str, int]:
    """Returns how many processes each launcher reports having started, where any did."""
    launchers = {
        "Slurm": ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
        "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
    }
    return {
        kind: int(os.environ[count])
        for kind, (mark, count) in launchers.items()
        if mark in os.environ and count in os.environ
    }


def _wait_seconds() -> int:
    text = os.environ.get("PD_JAX_WAIT_SECONDS", str(WAIT_SECONDS))
    if not text.isdecimal() or int(text) < 1:
        raise MeshError(f"PD_JAX_WAIT_SECONDS={text!r} is not a number of seconds; set 1 or more")
    return int(text)


def _hint(explicit: Explicit | None, cluster: str | None, seconds: int) -> str:
    """Returns the error message for a process that could not reach its peers."""
    if explicit:
        who = f"process {explicit.index} of {explicit.count}, coordinator {explicit.address},"
    else:
        who = f"this process ({cluster})"
    stale = [f"{name}={os.environ[name]}" for name in _STALE if name in os.environ]
    remedy = (
        f"unset {' '.join(stale)} if that is left over from a run over several slices"
        if stale
        else "start every process within that time, and let them reach the coordinator's port"
    )
    return f"{who} did not meet the others within {seconds} s; {remedy}"


def _give_up(message: str) -> NoReturn:
    """Ends this process at once, as one that launchers start again."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(PREEMPTED_EXIT_CODE)
