"""Reads ranges of remote files in large blocks, of which the most recently used are kept.

Such storage has high latency and high throughput: a request for a row takes about as long as one
for megabytes. A feed that shuffles within windows (`data.window`) reads each block once an epoch.

Local files are memory-mapped, so the files of all shards that were read stay open.
"""

import concurrent.futures
import contextlib
import errno
import functools
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from etils import epath

from pd_jax import files
from pd_jax.errors import RecordsError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

BLOCK_BYTES = 1 << 23
KEPT_BYTES = 1 << 30
"""Kept of a dataset's blocks, and of a logit store's. What `data.window` covers should fit twice: a
block that was dropped is read again whenever it is needed."""
_REQUESTS = 32
"""Requests at once for the files of many shards."""
_OPEN_FILES = 10_240
"""The limit to set where the system has none of its own: the most that macOS accepts."""


class Blocks:
    """Blocks of some remote files, `KEPT_BYTES` at most. Safe to use from several threads."""

    def __init__(self):
        self._most = max(1, KEPT_BYTES // BLOCK_BYTES)
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: epath.Path, number: int) -> bytes:
        """Returns a block of a file, the last of which may be shorter."""
        key = (str(path), number)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read_range(path, number * BLOCK_BYTES, BLOCK_BYTES)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[key]


class RemoteFile:
    """A remote file, where `file[begin:end]` gives the bytes of a range."""

    def __init__(self, path: epath.Path, blocks: Blocks):
        self._path, self._blocks = path, blocks

    def __getitem__(self, span: slice) -> bytes:
        first, begin = divmod(span.start, BLOCK_BYTES)
        last = max(first, (span.stop - 1) // BLOCK_BYTES)
        parts = [self._blocks.get(self._path, number) for number in range(first, last + 1)]
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return content[begin : begin + span.stop - span.start]


def content(path: epath.Path, blocks: Blocks) -> mmap.mmap | RemoteFile:
    """Returns a file for random access: a local one memory-mapped, a remote one in blocks.

    Raises:
      RecordsError: as `enough_files`.
    """
    if files.is_remote(path):
        return RemoteFile(path, blocks)
    with enough_files(path), path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def each(
    do: Callable[[_Item], _Result], items: Sequence[_Item], folder: epath.Path
) -> list[_Result]:
    """Returns what a function of files in a folder returns for each item, in order; in a bucket,
    where each file is a request that waits, for many at once.
    """
    if not files.is_remote(folder):
        return [do(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(do, items))


@contextlib.contextmanager
def enough_files(path: epath.Path) -> Iterator[None]:
    """Lets a block open a file even if many others are open.

    Raises:
      RecordsError: where this process has as many files open as the system allows.
    """
    _raise_limit()
    try:
        yield
    except OSError as fault:
        if fault.errno != errno.EMFILE:
            raise
        raise RecordsError(
            f"{path} cannot be opened, since this process has as many files open as it may, one for"
            " each shard of its datasets; raise the limit on open files (ulimit -n)"
        ) from None


@functools.cache
def _raise_limit() -> None:
    """Lets this process open as many files as the system allows, usually far more than at first.

    A dataset may have a thousand shards, which is the usual limit.
    """
    try:
        import resource
    except ImportError:  # only Unix has the limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # then the lower one holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def read_range(path: epath.Path, begin: int, size: int) -> bytes:
    """Returns `size` bytes of a file, fewer at its end."""
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(size)
