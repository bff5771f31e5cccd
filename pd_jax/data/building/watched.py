"""Notices that source files change while records are made from them.

A dataset is known by the digests of its sources. Each file is looked at before it is digested and
after it was read: between the two, its size and its time of change must stay.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from etils import epath

from pd_jax import files
from pd_jax.data.text import corpora
from pd_jax.errors import SourceError

T = TypeVar("T")
_ABSENT = "absent"


@dataclasses.dataclass(frozen=True)
class Watched:
    """Source files, and what a change of each would have shown in before they were digested."""

    files: tuple[corpora.SourceFile, ...]
    states: tuple[str, ...]

    def only(self, kept: Iterable[corpora.SourceFile]) -> "Watched":
        """Returns some of the files, watched since then."""
        states = {file.path: state for file, state in zip(self.files, self.states, strict=True)}
        chosen = tuple(dict.fromkeys(kept))
        return Watched(chosen, tuple(states[file.path] for file in chosen))

    def check(self) -> None:
        """Raises SourceError where a file has changed: nobody knows which text was read of it, and
        it is not what was digested.
        """
        pairs = zip(self.files, self.states, strict=True)
        changed = [file.path for file, state in pairs if _state_of(file) != state]
        if changed:
            raise SourceError(
                f"{', '.join(changed)} changed while it was read; run the same command again when"
                " nothing writes to it"
            )

    def read(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, which are read from the files; then checks."""
        yield from items
        self.check()


def watch(found: Iterable[corpora.SourceFile]) -> Watched:
    """Returns the files, watched from now on."""
    every = tuple(found)
    return Watched(every, tuple(map(_state_of, every)))


def _state_of(file: corpora.SourceFile) -> str:
    return corpora.digest(file, _state)


def _state(path: epath.PathLike) -> str:
    # An inode says nothing: on mounted buckets, a file that nobody touched gets new ones.
    try:
        if files.is_remote(path):
            status = epath.Path(path).stat()
            return f"{status.length} {status.mtime}"
        status = os.stat(path)  # epath's has whole seconds
    except OSError:
        return _ABSENT
    return f"{status.st_size} {status.st_mtime_ns}"
