"""Digests of the files that a pipeline reads from outside its workdir."""

from etils import epath

from pd_jax import files
from pd_jax.data import text
from pd_jax.errors import SourceError, StageError


class InputDigests:
    """Reference in a config -> digest of the content that it stands for.

    A folder with a manifest stands for what the manifest says; a `tfds:` name stands for itself.
    """

    def __init__(self, cache: epath.Path):
        self._digests = files.DigestCache(cache, StageError)

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
        return files.digest_json([self._digests.of(item) for item in found])

    def save(self) -> None:
        """Writes what was learnt."""
        self._digests.save()
