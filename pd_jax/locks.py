"""One writer at a time: locks that survive crashes, and work across shared file systems.

A lock is a small file that names its holder. Three things show whether the holder is still alive:
the kernel's own lock on the file (`flock`), which ends with the process; on the same machine, the
process's number and start time; anywhere else, a heartbeat. Clocks of two machines are never
compared: an observer watches for the heartbeat by its own clock. The file is complete and already
locked when it is linked into place, so that it is never seen half-written. Where the file API has
neither links nor `flock` (`gs://`), a claim is written, left to settle, and read again; a holder
that finds another's name in its lock ends itself.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from pd_jax import files
from pd_jax.errors import EXIT_CODE, LockError

BEAT_SECONDS = 10.0
"""How often a holder shows that it is alive."""

STALE_SECONDS = 60.0
"""A holder on another machine without a heartbeat for so long is taken to be dead."""

_POLL_SECONDS = 1.0
_SETTLE_SECONDS = 2.0
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_FLOCK = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process, distinguished from any other that ever had its number."""

    host: str
    process: int
    machine: str
    """Digest-like name of the boot and process namespace; empty where the system has none."""
    started: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


class Lock:
    """A lock at a path. `take` and `release` may be called repeatedly."""

    def __init__(
        self,
        path: epath.PathLike,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ):
        self._path = epath.Path(path)
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        self._local = not files.is_remote(path)
        self._me: Owner | None = None
        self._held: int | None = None
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self) -> Owner | None:
        """Returns None once this process holds the lock, or else its holder.

        Takes up to `STALE_SECONDS` where a holder on another machine may have died.

        Raises:
          LockError: the lock's file cannot be written.
        """
        self._me = _myself()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            other = self._take_by_link() if self._local else self._take_by_claim()
        except OSError as fault:
            raise LockError(
                f"the lock {self._path} could not be written ({fault}); free some space or give "
                "permission there, or choose another folder"
            ) from fault
        if other is None:
            self._ended.clear()
            self._beating = threading.Thread(target=self._beat, daemon=True, name="lock")
            self._beating.start()
        return other

    def release(self) -> None:
        """Releases the lock, if this process holds it."""
        if self._beating is None or self._me is None:
            return
        self._ended.set()
        self._beating.join()
        self._beating = None
        owner, _ = self._read()
        if owner is not None and owner.token == self._me.token:
            self._path.unlink(missing_ok=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _take_by_link(self) -> Owner | None:
        assert self._me is not None
        claim = pathlib.Path(self._path.parent) / f".{self._path.name}.partial-{self._me.token}"
        held = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            _flock(held)
            os.write(held, _content(self._me))
            while True:
                try:
                    os.link(claim, self._path)
                except FileExistsError:
                    other = self._clear_away()
                    if other is not None:
                        return other
                    continue
                except OSError as fault:
                    if fault.errno not in _NO_LINKS:
                        raise
                    return self._take_by_claim()
                self._held, held = held, -1
                return None
        finally:
            claim.unlink(missing_ok=True)
            if held >= 0:
                os.close(held)

    def _clear_away(self) -> Owner | None:
        """Returns the live holder of the existing file; None if the file is gone or was removed
        because its holder is dead.
        """
        try:
            old = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if not _flock(old):
                owner, _ = self._read()
                return owner if owner is not None else _UNKNOWN
            owner, _ = self._read()
            if owner is not None and self._lives(owner):
                return owner
            # Only the process with the kernel's lock on this very file may remove it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(old), os.stat(self._path)):
                    os.unlink(self._path)
            return None
        finally:
            os.close(old)

    def _take_by_claim(self) -> Owner | None:
        assert self._me is not None
        owner, pulse = self._read()
        if pulse is not None and self._lives(owner or _UNKNOWN):
            return owner or _UNKNOWN
        self._path.write_bytes(_content(self._me))
        time.sleep(_SETTLE_SECONDS)
        owner, _ = self._read()
        if owner is None or owner.token != self._me.token:
            return owner or _UNKNOWN
        return None

    def _lives(self, owner: Owner) -> bool:
        """Returns whether a holder is alive: at once on its own machine, else by its heartbeat."""
        assert self._me is not None
        if owner.machine and owner.machine == self._me.machine:
            return _start_of(owner.process) == owner.started
        _, before = self._read()
        deadline = time.monotonic() + self._stale_seconds
        while time.monotonic() < deadline:
            time.sleep(min(_POLL_SECONDS, self._stale_seconds / 10))
            _, now = self._read()
            if now != before:
                return now is not None
        return False

    def _read(self) -> tuple[Owner | None, Any]:
        """Returns the file's holder (None: none, or unreadable), and something that changes with
        every beat (None: no file).
        """
        try:
            with self._path.open("rb") as stream:
                content = stream.read()
                # After an open, a shared file system's attributes are fresh.
                moved = os.fstat(stream.fileno()).st_mtime_ns if self._local else 0
        except FileNotFoundError:
            return None, None
        try:
            value = json.loads(content)
            names = [field.name for field in dataclasses.fields(Owner)]
            return Owner(**{name: value[name] for name in names}), (content, moved)
        except (ValueError, KeyError, TypeError):
            return None, (content, moved)

    def _beat(self) -> None:
        """Shows regularly that this process is alive; ends it if another took its lock."""
        assert self._me is not None
        count = 0
        while not self._ended.wait(self._beat_seconds):
            count += 1
            # What fails now may succeed at the next beat. A holder whose beats fail for too long
            # loses its lock, and finds out here.
            # (Exception: clients of gs:// have their own, once their retries are used up.)
            with contextlib.suppress(Exception):
                owner, pulse = self._read()
                if pulse is not None and (owner is None or owner.token != self._me.token):
                    _end_process(self._path, owner or _UNKNOWN)
                if self._held is not None:
                    os.utime(self._held)  # needs no space, so a full disk stops no beat
                else:
                    self._path.write_bytes(_content(self._me, beat=count))


@contextlib.contextmanager
def held(
    path: epath.PathLike,
    what: str,
    *,
    writer: bool = True,
    agree: Callable[[int], int] = int,
) -> Iterator[None]:
    """Holds the lock at `path` inside the block.

    Args:
      path: the lock's file; its folder is created where it is missing.
      what: what is locked, for the message: "the dataset in runs/corpus".
      writer: whether this process takes the lock for a group of processes that run together; all of
        them come here.
      agree: the largest of the group's values (`distributed.agree`).

    Raises:
      LockError: another process holds it, or its file cannot be written.
    """
    lock = Lock(path)
    owner = lock.take() if writer else None
    if agree(int(owner is not None)):
        raise LockError(
            _refusal(what, owner, path)
            if owner is not None
            else f"{what} is locked; process 0 names the holder"
        )
    try:
        yield
    finally:
        lock.release()


def _refusal(what: str, owner: Owner, path: epath.PathLike) -> str:
    return (
        f"{what} is being written by {owner} ({path}); wait for it to end or stop it, and run the "
        "same command again"
    )


_UNKNOWN = Owner("an unknown host", 0, "", "", "a moment ago", "")


def _myself() -> Owner:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    number = os.getpid()
    return Owner(platform.node(), number, _machine(), _start_of(number), now, secrets.token_hex(8))


def _machine() -> str:
    """Returns a name unique to this boot and process namespace; empty if unknown."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(process: int) -> str:
    """Returns when a process of this machine started, in ticks since boot; empty if it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    # The name, in parentheses, may contain spaces; the start is the 20th field after it.
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _flock(file: int) -> bool:
    """Returns False where another process has the kernel's lock; True also where locks are not
    supported.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as fault:
        if fault.errno not in _NO_FLOCK:
            raise
    return True


def _content(owner: Owner, **more: int) -> bytes:
    return (json.dumps({**dataclasses.asdict(owner), **more}) + "\n").encode()


def _end_process(path: epath.Path, owner: Owner) -> None:
    """Ends this process, which has lost its lock: two writers would corrupt each other's files."""
    print(
        f"error: {owner} took the lock {path} of this process, which had shown no sign of life for "
        f"{STALE_SECONDS:.0f} s; leaving the work to it",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_CODE)
