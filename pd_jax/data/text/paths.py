"""Checks of the paths of source files."""

import os
from collections.abc import Iterable

from etils import epath

from pd_jax import files
from pd_jax.data.text import tfds
from pd_jax.errors import SourceError


def check(paths: Iterable[epath.PathLike]) -> None:
    """Raises SourceError where two paths lead to one file, whose text would count twice, or one
    cannot be written down in UTF-8, as manifests are.
    """
    found: dict[str, str] = {}
    for path in (os.fspath(path) for path in paths):
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            raise SourceError(f"{ascii(path)} has a name that is not UTF-8; rename it") from None
        place = _place(path)
        if place in found:
            first = found[place]
            other = "named twice" if first == path else f"the same file as {first}"
            raise SourceError(f"{path} is {other}, and would be read twice; name it once")
        found[place] = path


def _place(path: str) -> str:
    """Returns where a local file is, by whatever links it is named; any other path as it is."""
    is_local = not path.startswith(tfds.PREFIX) and not files.is_remote(path)
    return os.path.realpath(path) if is_local else path
