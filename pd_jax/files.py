"""Complete files only: atomic writes, JSON, and digests.

A file written here is either complete under its final name or absent. Digests are blake2b, the same
on every machine.
"""

import contextlib
import fnmatch
import hashlib
import io
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import fsspec.config
from etils import epath

from pd_jax.errors import PdError

# By default gcsfs remembers what it has listed and never sees what other processes write.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False

DIGEST_BYTES = 16
_CHUNK = 1 << 20
_NO_NAME = re.compile("[\0\r\n\ud800-\udc7f\udd00-\udfff]")
"""What no name of a file has: line ends, and surrogates that stand for no byte of it."""
_DIGEST = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_SETTLED_SECONDS = 5.0
_PROCESS = secrets.token_hex(4)
"""Processes of two machines, or containers, that share a disk may have the same number."""


def partial(path: epath.PathLike) -> epath.Path:
    """Returns the temporary path, unique to this process on any machine, that becomes `path`."""
    path = epath.Path(path)
    return path.parent / f".{path.name}.partial-{os.getpid()}-{_PROCESS}"


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is in object storage, like `gs://bucket/file`."""
    return "://" in os.fspath(path)


def size(path: epath.PathLike) -> int:
    """Returns a file's size in bytes."""
    # A local epath also looks up the owner's name, and fails in a container that has none.
    return epath.Path(path).stat().length if is_remote(path) else os.path.getsize(path)


@contextlib.contextmanager
def replaced(path: epath.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Yields a stream whose content replaces `path` when the block succeeds.

    If the block raises, nothing is left behind and an existing file stays as it was.
    """
    path = epath.Path(path)
    unfinished = partial(path)
    try:
        with unfinished.open(mode) as stream:
            yield stream
            sync(stream)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` under `path`, replacing what was there in one step."""
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as stream:
        stream.write(content)


def sync(stream: IO[Any]) -> None:
    """Flushes a stream to disk, if its file is local.

    Without it, a machine that loses power may keep the new name and lose the content, and a shared
    file system may report a full disk only after the file was taken to be complete.
    """
    stream.flush()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError):  # no local file
        os.fsync(stream.fileno())


def append(path: epath.PathLike, content: bytes) -> None:
    """Appends bytes to a file, all or none of them."""
    path = epath.Path(path)
    if is_remote(path):  # an object cannot be appended to, so all of it is written again
        path.write_bytes((path.read_bytes() if path.exists() else b"") + content)
        return
    with open(path, "ab", buffering=0) as stream:
        end = stream.tell()
        try:
            written = stream.write(content)
            if written < len(content):  # the disk is full: writing the rest raises the error
                stream.write(content[written:])
        except OSError:
            stream.truncate(end)
            raise


def append_lines(path: epath.PathLike, lines: Iterable[str]) -> None:
    """Appends lines, all or none of them; a last line truncated by a kill is removed first."""
    if not is_remote(path):
        with open(path, "a+b", buffering=0) as stream:
            stream.truncate(_end_of_lines(stream))
    append(path, "".join(line + "\n" for line in lines).encode("utf-8"))


def _end_of_lines(stream: IO[bytes]) -> int:
    """Returns the length of a file without its last line, if that has no line break."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    stream.seek(size - 1)
    if stream.read(1) == b"\n":
        return size
    stream.seek(0)
    return stream.read().rfind(b"\n") + 1


def write_text(path: epath.PathLike, content: str) -> None:
    r"""Writes `content` as UTF-8 under `path`, replacing what was there in one step.

    Bytes of a path that are not UTF-8, which Python holds as lone surrogates, become `\udcXX`: in
    JSON that reads back as the same path.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON under `path`, replacing what was there in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(
    folder: epath.PathLike, *, is_older: Callable[[epath.Path], bool], error: type[PdError]
) -> Iterator[epath.Path]:
    """Yields a folder to write in, which replaces `folder` when the block succeeds.

    If the block raises, nothing is left behind and an existing `folder` stays as it was.

    Args:
      folder: where the finished folder goes.
      is_older: whether what is at `folder` is an older one of its kind, which may be replaced.
      error: raised where `folder` contains something else, which would be lost.
    """
    folder = epath.Path(folder)
    held = list(folder.iterdir()) if folder.exists() else []
    if held and (any(path.is_dir() for path in held) or not is_older(folder)):
        raise error(
            f"{folder} contains {held[0].name} and is not a folder of the kind to be written, which"
            " would replace all of it; choose an empty or new folder"
        )
    unfinished = partial(folder)
    old = folder.parent / f".{folder.name}.replaced-{os.getpid()}-{_PROCESS}"
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        made = {path.name for path in unfinished.iterdir()}
        if others := sorted({path.name for path in held} - made):
            raise error(
                f"{folder} contains {', '.join(others)}, which the folder that replaces it has not;"
                " move that elsewhere, or choose an empty or new folder"
            )
        if folder.exists():
            folder.rename(old)
        try:
            unfinished.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        if old.exists():
            old.rmtree()
    finally:
        if unfinished.exists():
            unfinished.rmtree()


_QUOTED = re.compile(r'"/(?:[^"\n]*/)?(?=[^"/\n]+/?")')
_ABSOLUTE = re.compile(r"(?<![^\s'\"=:,(\[{`“‹])/(?!/)(?:[^\s'\",/]+/)+(?=[^\s'\",/])")


def without_folders(text: str) -> str:
    """Returns a text for other machines: of each absolute path in it the last part alone."""
    return _ABSOLUTE.sub("…/", _QUOTED.sub('"…/', text))


def matching(folder: epath.PathLike, pattern: str) -> list[epath.Path]:
    """Returns what is in a folder under names that match a pattern, in order; nothing if there is
    no such folder.
    """
    # Not glob, which takes the brackets, stars and question marks in the folder's own path, too.
    folder = epath.Path(folder)
    held = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in held if fnmatch.fnmatchcase(path.name, pattern))


def files_below(folder: epath.PathLike) -> Iterator[epath.Path]:
    """Yields the files of a folder and its subfolders, in order of name."""
    for path in sorted(epath.Path(folder).iterdir()):
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path


def remove_partial(folder: epath.PathLike) -> None:
    """Removes what killed processes left half-written below a folder; for its one writer."""
    folder = epath.Path(folder)
    for path in list(folder.iterdir()) if folder.exists() else ():
        if path.name.startswith(".") and (".partial-" in path.name or ".replaced-" in path.name):
            path.rmtree() if path.is_dir() else path.unlink(missing_ok=True)
        elif path.is_dir():
            remove_partial(path)


def read_json(path: epath.PathLike, error: type[Exception]) -> Any:
    """Returns the JSON value in `path`; raises `error`, naming the file, where it is missing or not
    JSON.
    """
    path = epath.Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (ValueError, RecursionError) as fault:
        raise error(
            f"{path} is not valid JSON ({fault}); rebuild the folder that contains it"
        ) from None


def read_object(path: epath.PathLike, error: type[Exception]) -> dict[str, Any]:
    """Returns the JSON object in `path`; raises `error` where it is missing or something else."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path} is not a JSON object; rebuild the folder that contains it")
    return value


def digest_bytes(*parts: bytes) -> str:
    """Returns the hexadecimal blake2b-128 digest of the parts, each framed by its length."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def digest_json(value: Any) -> str:
    """Returns the digest of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return digest_bytes(text.encode("utf-8"))


def digest_content(content: bytes) -> str:
    """Returns the digest that `digest_file` returns of a file with this content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def digest_file(path: epath.PathLike) -> str:
    """Returns the blake2b-128 digest of a file's content, read in chunks."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with epath.Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


class DigestCache:
    """Path -> digest of a file's content, cached in a JSON file, so that an unchanged file is read
    only once.

    A file counts as unchanged while its size and times are, and a local one's inode: archives and
    copies may set the time of modification, and two models of one shape have one size. A file that
    was modified in the last few seconds is not cached: another change within the clock's
    resolution, a second on some file systems, would go unnoticed.
    """

    def __init__(self, cache: epath.PathLike, error: type[PdError]):
        """Reads the digests that an earlier process saved in `cache`.

        Raises:
          error: where `cache` is not such a file.
        """
        self._cache = epath.Path(cache)
        self._known = _known_digests(self._cache, error) if self._cache.exists() else {}
        self._before = dict(self._known)

    def of(self, path: epath.PathLike) -> str:
        """Returns what `digest_file` returns of a file's content as it is now."""
        name = os.fspath(path)
        state = _state(name)
        known = self._known.get(name)
        if known is not None and known[:-1] == state:
            return known[-1]
        digest = digest_file(name)
        if state[1] < time.time() - _SETTLED_SECONDS:
            self._known[name] = [*state, digest]
        return digest

    def save(self) -> None:
        """Writes the cache, if it has changed."""
        if self._known != self._before:
            write_json(self._cache, self._known)


def _state(path: str) -> list[float]:
    """Returns a file's size and modification time; for a local file also what shows a change of its
    content that restores both.
    """
    if is_remote(path):
        status = epath.Path(path).stat()
        return [status.length, status.mtime]
    status = os.stat(path)  # epath's has whole seconds
    return [status.st_size, status.st_mtime, status.st_ctime_ns, status.st_ino]


def _is_known(entry: Any) -> bool:
    """Returns whether a value is a file's state, some finite numbers, and a digest."""
    if not isinstance(entry, list) or not entry:
        return False
    *state, digest = entry
    whole = isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None
    return whole and all(type(it) in (int, float) and math.isfinite(it) for it in state)


def _known_digests(path: epath.Path, error: type[PdError]) -> dict[str, list]:
    """Returns the content of a digest cache: path -> a file's state, and its digest."""
    found = read_object(path, error)
    for name, known in found.items():
        if not _is_known(known) or _NO_NAME.search(name):
            raise error(f"{path} is damaged or was edited; remove it to read all files again")
    return found
