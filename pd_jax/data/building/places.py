"""Checks of the folder that a dataset is to be made in."""

import os
import tempfile

from etils import epath

from pd_jax import files
from pd_jax.data.building.plans import DIGESTS_FILE
from pd_jax.data.records import manifest
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import RecordsError, TokenizerError


def check(folder: epath.PathLike, tokenizer: Tokenizer) -> None:
    """Raises RecordsError where a dataset with this tokenizer cannot be made in a folder, or would
    replace what no dataset has put there.
    """
    folder = epath.Path(folder)
    if not files.is_remote(folder) and os.path.lexists(folder) and not folder.is_dir():
        kind = "a file" if folder.exists() else "a link to what does not exist"
        raise RecordsError(f"{folder} is {kind}; name a folder for the dataset's files")
    if (folder / "config.json").exists() and not _is_of_records(folder):
        raise RecordsError(
            f"{folder} has a config.json, as the folders of models and stages have; name another"
            " folder for the dataset's files"
        )
    manifest.check_replaceable(folder, "pd_jax records", RecordsError)
    place = folder / manifest.TOKENIZER_FOLDER
    if not place.exists() or _is_of_records(folder) or holds(place, tokenizer):
        return
    if _would_lose(place, tokenizer):
        raise RecordsError(
            f"{place} is another tokenizer, which the dataset's would replace; choose another"
            " folder for the dataset, or move that one away"
        )


def holds(place: epath.Path, tokenizer: Tokenizer) -> bool:
    """Returns whether this tokenizer, or an equal one, is in a folder."""
    try:
        return load_tokenizer(place).fingerprint == tokenizer.fingerprint
    except TokenizerError:
        return False


def _is_of_records(folder: epath.Path) -> bool:
    """Returns whether a folder has anything that only a build of records puts there."""
    named = (folder / manifest.FILE, folder / DIGESTS_FILE)
    return any(path.exists() for path in named) or bool(files.matching(folder, "*.shard.json"))


def _would_lose(place: epath.Path, tokenizer: Tokenizer) -> bool:
    """Returns whether a folder has a file that is not as `tokenizer.save` writes it: a build that
    was interrupted at its start leaves some of those.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save(scratch)
        ours = {path.name: path.read_bytes() for path in epath.Path(scratch).iterdir()}
    return any(
        path.is_dir() or path.read_bytes() != ours.get(path.name)
        for path in place.iterdir()
        if ".partial-" not in path.name
    )
