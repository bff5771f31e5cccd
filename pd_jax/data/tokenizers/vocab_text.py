"""BERT's tokenizer from a `vocab.txt`, which names pieces only: how text is changed before it is
split is in a config beside it, or shows in the pieces.
"""

from collections.abc import Collection, Mapping
from typing import Any

import tokenizers as hf
from etils import epath

from pd_jax.data.tokenizers.beside import WORDPIECE_CLASSES, check_added, config_beside
from pd_jax.data.tokenizers.wordpieces import WordPiece
from pd_jax.errors import TokenizerError

_MOST_LOST = 0.01
"""Share of pieces that no text yields; some vocabularies have a few by accident."""


def from_vocab(path: epath.Path) -> WordPiece:
    """Returns the tokenizer of a `vocab.txt`.

    Raises:
      TokenizerError: where it is damaged, a file beside it adds tokens or names another kind of
        tokenizer.
    """
    pieces = _numbered_pieces(path)
    kind, options = config_beside(path)
    if kind is not None and kind not in WORDPIECE_CLASSES:
        raise TokenizerError(
            f"{path} is the vocabulary of a {kind}, as the config beside it states, which splits"
            " words differently from BERT's tokenizer; name a tokenizer.json or .model file, or"
            " another tokenizer"
        )
    check_added(path, options, pieces)
    lowercase, strip_accents = _changes(pieces, options, known=kind is not None)
    return WordPiece(
        list(pieces),
        lowercase=lowercase,
        strip_accents=strip_accents,
        split_chinese=options.get("tokenize_chinese_chars", True),
        where=str(path),
    )


def _numbered_pieces(path: epath.Path) -> dict[str, int]:
    """Returns the pieces in their order, each with the line that it is on."""
    try:
        # Not splitlines: vocabularies have pieces such as U+2028 that it would take for line ends.
        found = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as fault:
        raise TokenizerError(
            f"{path} is not UTF-8 ({fault}); use the file as it was released"
        ) from None
    lines: dict[str, int] = {}
    for number, piece in enumerate((piece.removesuffix("\r") for piece in found), start=1):
        if piece in lines:
            raise TokenizerError(
                f"{path}:{number} repeats line {lines[piece]} ({piece!r}), which would shift ids;"
                " use the file as it was released"
            )
        lines[piece] = number
    return lines


def _changes(
    pieces: Collection[str], options: Mapping[str, Any], *, known: bool
) -> tuple[Any, Any]:
    """Returns whether text is lower-cased, and whether its accents are stripped (None: with case).

    What no config beside the file states follows from its pieces. Without capitals among them text
    is lower-cased. Accents are then stripped, as BERT's are, unless the class is not `known` and
    that would change pieces of the vocabulary, so that no text yielded them: vowel signs of Hindi
    and Thai, syllables of Korean, umlauts.
    """
    words = [piece for piece in pieces if not piece.startswith("[")]
    lowercase = options.get("do_lower_case")
    if lowercase is None:
        lowercase = not any(piece != piece.lower() for piece in words)
    given = options.get("strip_accents")
    if given is not None or "do_lower_case" in options or known:
        return lowercase, given
    as_bert, kept = (_lost(words, lowercase, strip) for strip in (None, False))
    return lowercase, False if as_bert > _MOST_LOST * len(pieces) and kept < as_bert else None


def _lost(words: Collection[str], lowercase: bool, strip_accents: bool | None) -> int:
    """Returns how many pieces are changed as text is, so that no text yields them."""
    changed = hf.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=False,  # it adds spaces, and loses nothing
        strip_accents=strip_accents,
        lowercase=lowercase,
    ).normalize_str
    return sum(not piece.isascii() and changed(piece) != piece for piece in words)
