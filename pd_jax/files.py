"""Whole files only: atomic writes, JSON, and digests.

A file written here is either complete under its final name or absent. Digests are blake2b, the same
on every machine.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

DIGEST_BYTES = 16
_CHUNK = 1 << 20


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` under `path`, replacing what was there in one step."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: epath.PathLike, content: str) -> None:
    """Writes `content` as UTF-8 under `path`, replacing what was there in one step."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON under `path`, replacing what was there in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(folder: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a folder to write in, which takes the place of `folder` when the block ends well.

    Where the block raises, nothing of it is left and an older `folder` stays as it was.
    """
    folder = epath.Path(folder)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    old = folder.parent / f".{folder.name}.replaced-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        if old.exists():
            old.rmtree()
    finally:
        if partial.exists():
            partial.rmtree()


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
    """Returns the JSON value in `path`; raises `error` naming the file where it is missing or not
    JSON.
    """
    path = epath.Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (ValueError, RecursionError) as fault:
        raise error(
            f"{path} is not valid JSON ({fault}); make the folder that holds it again"
        ) from None


def read_object(path: epath.PathLike, error: type[Exception]) -> dict[str, Any]:
    """Returns the JSON object in `path`; raises `error` where it is missing or something else."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path} holds no JSON object; make the folder that holds it again")
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


def digest_file(path: epath.PathLike) -> str:
    """Returns the blake2b-128 digest of a file's content, read in chunks."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with epath.Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def digest_files(paths: Iterable[epath.PathLike]) -> dict[str, str]:
    """Returns file name -> digest, for files of one folder."""
    return {epath.Path(path).name: digest_file(path) for path in sorted(map(str, paths))}
