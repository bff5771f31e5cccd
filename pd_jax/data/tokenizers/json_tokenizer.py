"""Tokenizers of any kind that a `tokenizer.json` of the tokenizers library defines."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from etils import epath
from jaxtyping import Int32

from pd_jax import files
from pd_jax.data.tokenizers import vocabulary
from pd_jax.errors import TokenizerError

_LARGEST_VOCABULARY = 1 << 24


class JsonTokenizer:
    """Any other tokenizer that a `tokenizer.json` defines."""

    def __init__(self, definition: Mapping[str, Any], *, where: str = vocabulary.JSON_FILE):
        added = {token["content"]: token["id"] for token in definition.get("added_tokens") or ()}
        special = {
            token["content"] for token in definition.get("added_tokens") or () if token["special"]
        }
        # Without special tokens, padding and truncation, what is left is a function of the text.
        plain = {
            **definition,
            "added_tokens": [
                token for token in definition.get("added_tokens") or () if not token["special"]
            ],
            "post_processor": None,
            "padding": None,
            "truncation": None,
        }
        self._definition = dict(definition)
        self._model = _from_definition(plain, where)
        ids = _from_definition(definition, where).get_vocab(with_added_tokens=True) | added
        self.vocab_size = max(ids.values(), default=0) + 1
        if min(ids.values(), default=0) < 0 or self.vocab_size > _LARGEST_VOCABULARY:
            raise TokenizerError(
                f"{where} numbers its tokens up to {self.vocab_size - 1}; at most"
                f" {_LARGEST_VOCABULARY} are supported"
            )
        named = {number: piece for piece, number in ids.items()}
        self.pieces: tuple[str, ...] = tuple(
            named.get(number, "") for number in range(self.vocab_size)
        )
        self._special = vocabulary.special_tokens(ids, where)
        special = [ids[name] for name in self._special.values()]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = special
        self._ids_of_text = vocabulary.ids_of_text(
            self.vocab_size, unk_id=self.unk_id, special=special
        )
        self.word_starts = np.zeros(self.vocab_size, bool)
        continues = any(piece.startswith("##") for piece in ids)
        for piece, number in ids.items():
            starts = not piece.startswith("##") if continues else piece[:1] in ("▁", "Ġ")
            self.word_starts[number] = starts or piece in special
        self.fingerprint = files.digest_json({"kind": "pipeline", "definition": plain})

    def encode(
        self, texts: Sequence[str], *, limit: int | None = None
    ) -> list[Int32[np.ndarray, " tokens"]]:
        """Returns each text's ids without special tokens; of long texts the first `limit` only."""
        if any(len(text) > vocabulary.PART_LETTERS for text in texts):
            return [vocabulary.encode_in_parts(self._encode, text, limit=limit) for text in texts]
        return [ids[:limit] for ids in self._encode(texts)]

    def save(self, folder: epath.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json."""
        folder = epath.Path(folder)
        vocabulary.make_way(folder, (vocabulary.JSON_FILE, vocabulary.CONFIG_FILE))
        # Framed as we frame texts, whatever the source's own frame is; all else stays as it was.
        ids = {"cls": self.cls_id, "sep": self.sep_id}
        frame = vocabulary.frame_of(self._special, ids)
        definition = {**self._definition, "post_processor": frame}
        files.write_json(folder / vocabulary.JSON_FILE, definition)
        vocabulary.save_config(folder, "PreTrainedTokenizerFast", self._special, {})

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._ids_of_text[np.array(item.ids, np.int32)] for item in found]


def _from_definition(definition: Mapping[str, Any], where: str) -> hf.Tokenizer:
    try:
        return hf.Tokenizer.from_str(json.dumps(definition))
    except Exception as fault:  # the library raises nothing more precise
        raise TokenizerError(
            f"{where} cannot be read by the tokenizers library ({fault}); use the file as it was "
            "released, or save it again with this library's version"
        ) from None
