"""The paths of source files: globs, formats by their endings, and what is refused."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from pd_jax import files
from pd_jax.data.text import tfds
from pd_jax.errors import SourceError

_FORMATS = {
    ".txt": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS = {".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}
_GLOB = re.compile(r"[*?\[]")


def expanded(path: str) -> list[epath.Path]:
    """Returns the files that a path or glob names, local or remote, in order of name.

    A path that exists is not a glob, whatever is in it; folders that a glob matches are skipped.

    Raises:
      SourceError: where it names nothing, a folder, or folders of any depth (`**`).
    """
    if epath.Path(path).is_dir():
        raise SourceError(
            f"{path} is a folder; name the files in it, for example {path.rstrip('/')}/*.txt"
        )
    if epath.Path(path).exists():
        return [epath.Path(path)]
    if "**" in path:
        raise SourceError(f"{path} has **, which is not supported; name each level with *")
    if not _GLOB.search(path):
        raise SourceError(f"{path} does not exist; check the path")
    parts = path.split("/")
    fixed = next(number for number, part in enumerate(parts) if _GLOB.search(part))
    folder = epath.Path("/".join(parts[:fixed]) or ("/" if path.startswith("/") else "."))
    found = sorted(file for file in _matching(folder, parts[fixed:]) if not file.is_dir())
    if not found:
        raise SourceError(f"{path} matches no file; check the path")
    for file in found:
        if not file.exists():
            raise SourceError(f"{file} is a link to a file that does not exist; remove the link")
    return found


def format_of(path: str) -> str | None:
    """Returns the format that the ending of a path or glob stands for; None for another ending."""
    return _FORMATS.get(epath.Path(path.removesuffix(".gz")).suffix)


def format_by_ending(path: epath.Path) -> str:
    """Returns the format that a file's ending stands for; raises SourceError for another ending."""
    ending = epath.Path(path.name.removesuffix(".gz")).suffix
    if ending in _FORMATS:
        return _FORMATS[ending]
    if ending in _COMPRESSIONS:
        raise SourceError(
            f"{path} is compressed by {_COMPRESSIONS[ending]}; unpack it, or compress it with gzip"
        )
    if ending == ".json":
        raise SourceError(
            f"{path} may be a single value over many lines, by its ending '.json'; if it has one"
            " object a line, name it .jsonl or give format='jsonl'"
        )
    known = ", ".join(_FORMATS)
    raise SourceError(
        f"{path}: the ending {ending!r} is not one of {known} (all but .parquet also with .gz);"
        " rename the file or give its format"
    )


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


def _matching(folder: epath.Path, parts: Sequence[str]) -> Iterator[epath.Path]:
    """Yields what is below a folder under names that match a pattern for each level. A name that
    exists is not a pattern.
    """
    first, *rest = parts
    named = folder / first
    for found in [named] if named.exists() else files.matching(folder, first):
        if not rest:
            yield found
        elif found.is_dir():
            yield from _matching(found, rest)
