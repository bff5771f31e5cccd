"""A watch over code that reads a hostile file: what it opens, starts, takes and how long it works.

Python's audit events tell of every file that is opened and every program that is started. A hook
cannot be taken away again, so it does nothing while no watch is on.
"""

import contextlib
import dataclasses
import os
import pathlib
import resource
import sys
import sysconfig
import time
from collections.abc import Iterator
from typing import Any

MEGABYTES = 256
"""More memory than this for one small file is a finding."""

SECONDS = 5.0
"""More processor time than this for one small file is a finding."""

_ADDRESS_SPACE = 4 << 30
_STARTS = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.startfile",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen",
    "os.putenv", "os.kill", "builtins.input", "webbrowser.open",
)  # fmt: skip
_MOVES = {
    "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2,
    "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""Events of the file system, and how many of their arguments are paths."""

_OWN = tuple(
    str(pathlib.Path(path).resolve())
    for path in {
        *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/usr", "/proc", "/dev/null",
        "/dev/urandom",
        pathlib.Path(__file__).parents[2],
    }
)  # fmt: skip


class Forbidden(BaseException):
    """Something was tried that no parser may do; no `except Exception` may swallow it."""


class Excess(Exception):
    """A small file took too much time or memory."""


@dataclasses.dataclass
class _Watch:
    folder: str | None = None
    tried: list[str] = dataclasses.field(default_factory=list)


_watch = _Watch()


@contextlib.contextmanager
def watched(folder: pathlib.Path) -> Iterator[None]:
    """Raises Forbidden or Excess for what the block does outside `folder` or without measure."""
    _install()
    before, began = _reset_peak(), time.process_time()
    _watch.folder, _watch.tried = os.path.realpath(folder), []
    try:
        yield
    finally:
        _watch.folder = None
    if _watch.tried:
        raise Forbidden(_watch.tried[0])
    seconds, megabytes = time.process_time() - began, (_peak() - before) / 1024
    if seconds > SECONDS:
        raise Excess(f"{seconds:.1f} s of processor time")
    if megabytes > MEGABYTES:
        raise Excess(f"{megabytes:.0f} MB of memory")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Gives this process no more address space than it has and 4 GiB: an absurd wish must fail."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _ADDRESS_SPACE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _install() -> None:
    if not getattr(_install, "done", False):
        sys.addaudithook(_hook)
        _install.done = True  # type: ignore[attr-defined]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch.folder is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        if not _allowed(path, writes=writes):
            _refuse(f"{'writes' if writes else 'reads'} {path!r}")
    elif event in _MOVES:
        if arguments[-1] not in (-1, None):
            return  # relative to a folder that is open, which was looked at when it was opened
        for path in arguments[: _MOVES[event]]:
            if not _allowed(path, writes=True):
                _refuse(f"{event} of {path!r}")
    elif event in _STARTS:
        _refuse(f"{event}{arguments!r:.200}")


def _allowed(path: Any, *, writes: bool) -> bool:
    if isinstance(path, int):
        return True  # a descriptor that is open already
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    try:
        real = os.path.realpath(path)
    except (ValueError, OSError):
        return True  # no file can have such a name
    inside = real == _watch.folder or real.startswith(f"{_watch.folder}{os.sep}")
    return inside or (not writes and real.startswith(_OWN))


def _refuse(what: str) -> None:
    _watch.tried.append(what)
    raise Forbidden(what)


def _reset_peak() -> int:
    """Makes the memory in use the peak, where Linux lets us, and returns it in KiB."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Returns the most memory this process has had in use, in KiB."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
