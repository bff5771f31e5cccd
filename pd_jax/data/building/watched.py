"""Notices that source files change while records are made from them.

A dataset is known by the digests of its sources. Each file is looked at before it is digested and
after it was read: between the two, its size and its time of change must stay.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
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

    states: Mapping[corpora.SourceFile, str]

    def only(self, kept: Iterable[corpora.SourceFile]) -> "Watched":
        """Returns some of the files, watched since then."""
        return Watched({file: self.states[file] for file in kept})

    def check(self) -> None:
        """Raises SourceError where a file has changed: nobody knows which text was read of it, and
        it is not what was digested; also where that cannot be told.
        """
        changed = [file.path for file, state in self.states.items() if _state_of(file) != state]
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
    return Watched({file: _state_of(file) for file in dict.fromkeys(found)})


def _state_of(file: corpora.SourceFile) -> str:
    return corpora.digest(file, _state)


def _state(path: epath.PathLike) -> str:
    # An inode says nothing: on mounted buckets, a file that nobody touched gets new ones.
    try:
        if files.is_remote(path):
            status = epath.Path(path).stat()
            return f"{status.length} {status.mtime}"
        status = os.stat(path)  # epath's has whole seconds
    except FileNotFoundError:
        return _ABSENT
    except OSError as fault:
        raise SourceError(
            f"{os.fspath(path)} cannot be read ({fault.strerror or fault}); check its permissions"
            " and disk"
        ) from None
    return f"{status.st_size} {status.st_mtime_ns}"
