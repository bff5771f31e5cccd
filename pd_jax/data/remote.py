"""Ranges of files on remote storage, read in large blocks, of which the latest used are kept.

Storage like this answers slowly and sends fast: a request for a row takes about as long as one for
megabytes. A feed that shuffles within windows (`data.window`) reads each block once an epoch.
"""

import mmap
import threading
from collections import OrderedDict

from etils import epath

BLOCK_BYTES = 1 << 23
KEPT_BYTES = 1 << 30
"""Of a dataset's blocks, and of a logit store's. What `data.window` covers should fit twice: a
block that was dropped is read again whenever it is asked for."""


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
    """A remote file of which `file[begin:end]` are the bytes of a range."""

    def __init__(self, path: epath.Path, blocks: Blocks):
        self._path, self._blocks = path, blocks

    def __getitem__(self, span: slice) -> bytes:
        first, begin = divmod(span.start, BLOCK_BYTES)
        last = max(first, (span.stop - 1) // BLOCK_BYTES)
        parts = [self._blocks.get(self._path, number) for number in range(first, last + 1)]
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return content[begin : begin + span.stop - span.start]


def content(path: epath.Path, blocks: Blocks) -> mmap.mmap | RemoteFile:
    """Returns a file for random access: a local one memory-mapped, a remote one in blocks."""
    if is_remote(path):
        return RemoteFile(path, blocks)
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def is_remote(path: epath.Path) -> bool:
    """Returns whether a path is of storage that is no file system, as `gs://bucket/file`."""
    return "://" in str(path)


def read_range(path: epath.Path, begin: int, size: int) -> bytes:
    """Returns `size` bytes of a file, fewer at its end."""
    with path.open("rb") as stream:
        stream.seek(begin)
        return stream.read(size)
