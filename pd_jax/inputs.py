"""Digests of the files that a pipeline reads from outside its workdir."""

from collections.abc import Iterable

from etils import epath

from pd_jax import files
from pd_jax.data.records import manifest
from pd_jax.data.text import paths, tfds
from pd_jax.data.tokenizers.tokenizer import read_with
from pd_jax.errors import SourceError, StageError


class InputDigests:
    """Digests of what the references in a config name.

    Of a dataset or logit store only the manifest is read, which has the digests of the shards. Of a
    model's folder the files are read, but no subfolders, hidden files and Markdown.
    A file that no longer exists keeps the digest that it had when it was last read: finished stages
    that have read it are still recognised. A stage that is yet to read it is refused by `require`.
    """

    def __init__(self, cache: epath.Path):
        """Reads the digests that an earlier process saved in `cache` and in `references.json`
        beside it; raises StageError where these are other files.
        """
        self._digests = files.DigestCache(cache, StageError)
        self._memory = cache.parent / "references.json"
        self._known = _known_references(self._memory) if self._memory.exists() else {}
        self._before = dict(self._known)
        self._absent: dict[str, SourceError] = {}

    def of(self, reference: str, *, stage: str, tokenizer: bool = False) -> str:
        """Returns the digest of a file, a folder, a glob, or a TFDS name; raises StageError where
        it does not exist and no digest is saved.

        A `tokenizer`'s file also stands for those beside it that decide how it is read.
        """
        try:
            digest = self._digest(reference, tokenizer=tokenizer)
        except SourceError as fault:
            self._absent[reference] = fault
            if reference not in self._known:
                self.require([reference], stage=stage)
            return self._known[reference]
        self._known[reference] = digest
        return digest

    def _digest(self, reference: str, *, tokenizer: bool) -> str:
        if reference.startswith(tfds.PREFIX):
            return tfds.digest(reference, self._digests.of)
        found = _files(reference)
        if tokenizer and not epath.Path(reference).is_dir():
            found = [file for path in found for file in (path, *read_with(path))]
        return files.digest_json([self._digests.of(item) for item in found])

    def require(self, references: Iterable[str], *, stage: str) -> None:
        """Raises StageError unless everything that a stage will read exists."""
        for reference in references:
            if reference in self._absent:
                fault = self._absent[reference]
                raise StageError(f"stage {stage!r} cannot read its input: {fault}")

    def save(self) -> None:
        """Writes the digests, if they have changed."""
        self._digests.save()
        if self._known != self._before:
            files.write_json(self._memory, self._known)


def _files(reference: str) -> list[epath.Path]:
    path = epath.Path(reference)
    if manifest.format_of(path / manifest.FILE):
        return [path / manifest.FILE]
    if (path / "config.json").exists():
        top = [item for item in sorted(path.iterdir()) if not item.is_dir()]
        return [item for item in top if item.suffix != ".md" and not item.name.startswith(".")]
    return list(files.files_below(path)) if path.is_dir() else paths.expanded(reference)


def _known_references(path: epath.Path) -> dict[str, str]:
    """Returns the content of `references.json`: reference -> digest."""
    found = files.read_object(path, StageError)
    if not all(isinstance(digest, str) and digest.isascii() for digest in found.values()):
        raise StageError(f"{path} is damaged or was edited; remove it to read all files again")
    return found
