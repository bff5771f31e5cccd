"""What all tokenizers share: special tokens, long texts in parts, and files to save."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from etils import epath
from jaxtyping import Int32

from pd_jax import files
from pd_jax.errors import TokenizerError

VOCAB_FILE = "vocab.txt"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_KNOWN_MODELS = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
_KNOWN_FILES = (
    *_KNOWN_MODELS,
    VOCAB_FILE,
    JSON_FILE,
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)

SPECIAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
"""The tokens a model needs, and the names they go by."""

PART_LETTERS = 1 << 16
"""A text longer than this is encoded in parts."""

_BOUNDARY = re.compile(r"[ \t\r\n!-/:-@\[-`{-~\u3000-\u303f\u4e00-\u9fff]")


def special_tokens(ids: Mapping[str, int], where: str) -> dict[str, str]:
    """Returns role -> the vocabulary's name for it, in the order of SPECIAL.

    Raises:
      TokenizerError: where tokens are missing, naming them.
    """
    found = {
        role: next((name for name in names if name in ids), "") for role, names in SPECIAL.items()
    }
    lacking = [SPECIAL[role][0] for role, name in found.items() if not name]
    if lacking:
        raise TokenizerError(
            f"{where} lacks {', '.join(lacking)}; a vocabulary for BERT needs [PAD], [UNK], [CLS],"
            " [SEP] and [MASK]"
        )
    return found


def parts(text: str) -> Iterator[str]:
    """Yields a long text in parts that a tokenizer treats as it would the entire text.

    They are cut at a space or, without one, at another place where words end. Only a run of that
    many letters and digits is cut anywhere.
    """
    start = 0
    while len(text) - start > PART_LETTERS:
        middle, end = start + PART_LETTERS // 2, start + PART_LETTERS
        cut = text.rfind(" ", middle, end)
        if cut >= 0:
            yield text[start:cut]
            start = cut + 1
        else:
            boundary = _BOUNDARY.search(text, middle, end)
            cut = boundary.start() if boundary else end
            yield text[start:cut]
            start = cut
    yield text[start:]


def ids_of_text(size: int, *, unk_id: int, special: Sequence[int]) -> Int32[np.ndarray, " size"]:
    """Returns for each id what it stands for in a text: itself, or [UNK] for a special token, which
    no text yields: a vocabulary may have `<s>` among its pieces, and HTML among its tags.
    """
    ids = np.arange(size, dtype=np.int32)
    ids[list(special)] = unk_id
    return ids


def encode_in_parts(
    encode: Callable[[Sequence[str]], Sequence[np.ndarray]], text: str, *, limit: int | None
) -> Int32[np.ndarray, " tokens"]:
    """Returns the first `limit` ids of a text of any length, encoding little more than needed."""
    found, count = [np.zeros(0, np.int32)], 0
    for part in parts(text):
        found.append(encode([part])[0])
        count += len(found[-1])
        if limit is not None and count >= limit:
            break
    return np.concatenate(found)[:limit]


def check_place(folder: epath.PathLike) -> None:
    """Raises TokenizerError where a folder holds a `.model` that would be read in place of ours."""
    for path in files.matching(folder, "*.model"):
        if path.name not in _KNOWN_MODELS:
            raise TokenizerError(
                f"{path} would be read in place of a tokenizer saved beside it; name another folder"
                " or move the file"
            )


def check_empty_of_models(folder: epath.PathLike) -> None:
    """Raises TokenizerError where a new tokenizer would take the place of a model's, or there is a
    file in place of the folder.
    """
    folder = epath.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise TokenizerError(f"{folder} is a file; name a folder for the tokenizer's files")
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name == "config.json" or path.suffix in (".safetensors", ".bin", ".index"):
            raise TokenizerError(
                f"{folder} has a model ({path.name}), whose tokenizer would be lost; name another "
                "folder"
            )


def make_way(folder: epath.Path, written: Sequence[str]) -> None:
    """Removes files of other kinds of tokenizers, which would be read in place of `written`.

    What is about to be overwritten stays: another process may be reading it.

    Raises:
      TokenizerError: where there is a `.model` with an unknown name, which may be the only copy of
        somebody's work.
    """
    check_place(folder)
    for name in _KNOWN_FILES:
        if name not in written:
            (folder / name).unlink(missing_ok=True)


def save_definition(folder: epath.Path, model: hf.Tokenizer, special: Mapping[str, str]) -> None:
    """Writes `tokenizer.json`: the pipeline, framing texts by special tokens as BERT's input."""
    whole = hf.Tokenizer.from_str(model.to_str())
    whole.add_special_tokens(list(special.values()))
    known = whole.get_vocab(with_added_tokens=True)
    ids = {role: known[special[role]] for role in ("cls", "sep")}
    whole.post_processor = _frame(special, ids)
    files.write_text(folder / JSON_FILE, whole.to_str(pretty=True) + "\n")


def frame_of(special: Mapping[str, str], ids: Mapping[str, int]) -> dict[str, Any]:
    """Returns the part of a `tokenizer.json` that frames texts as BERT's input."""
    empty = hf.Tokenizer(hf.models.WordLevel())
    empty.post_processor = _frame(special, ids)
    return json.loads(empty.to_str())["post_processor"]


def _frame(special: Mapping[str, str], ids: Mapping[str, int]) -> hf.processors.TemplateProcessing:
    cls, sep = special["cls"], special["sep"]
    return hf.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(special[role], ids[role]) for role in ("cls", "sep")],
    )


def save_config(
    folder: epath.Path, kind: str, special: Mapping[str, str], options: Mapping[str, Any]
) -> None:
    """Writes `tokenizer_config.json`, from which AutoTokenizer learns what to load."""
    named = {f"{role}_token": name for role, name in special.items()}
    files.write_json(
        folder / CONFIG_FILE,
        {
            "tokenizer_class": kind,
            **options,
            **named,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "model_max_length": 512,
        },
    )
