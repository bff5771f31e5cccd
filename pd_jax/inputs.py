"""Digests of the files that a pipeline reads from outside its workdir."""

from etils import epath

from pd_jax import files
from pd_jax.data import text
from pd_jax.errors import SourceError, StageError


class InputDigests:
    """Path -> digest of its content, kept in a file so that unchanged inputs are read once.

    A file counts as unchanged while its size and modification time are. A folder with a manifest
    stands for what the manifest says; a `tfds:` name stands for itself.
    """

    def __init__(self, cache: epath.Path):
        self._cache = cache
        self._known: dict[str, list] = _cached(cache) if cache.exists() else {}
        self._before = dict(self._known)

    def of(self, reference: str, *, stage: str) -> str:
        """Returns the digest of a file, a folder, a glob, or a TFDS name; raises StageError where
        there is nothing.
        """
        if reference.startswith("tfds:"):
            return reference
        path = epath.Path(reference)
        if (path / "manifest.json").exists():
            found = [path / "manifest.json"]
        elif path.is_dir():
            found = list(files.files_below(path))
        else:
            try:
                found = text.expanded(reference)
            except SourceError as fault:
                raise StageError(f"stage {stage!r} cannot read its input: {fault}") from None
        return files.digest_json([self._digest(item) for item in found])

    def save(self) -> None:
        """Writes what was learnt."""
        if self._known != self._before:
            files.write_json(self._cache, self._known)

    def _digest(self, path: epath.Path) -> str:
        stat = path.stat()
        stamp = [stat.length, stat.mtime]
        known = self._known.get(str(path))
        if known is None or known[:2] != stamp:
            known = [*stamp, files.digest_file(path)]
            self._known[str(path)] = known
        return known[2]


def _cached(path: epath.Path) -> dict[str, list]:
    """Returns what a file of digests says: path -> size, time, digest."""
    found = files.read_object(path, StageError)
    for name, known in found.items():
        whole = isinstance(known, list) and [type(one) in (int, float) for one in known[:2]]
        if whole != [True, True] or [*map(type, known[2:])] != [str] or not name.isprintable():
            raise StageError(f"{path} is not as it was written; remove it, to read inputs anew")
    return found
