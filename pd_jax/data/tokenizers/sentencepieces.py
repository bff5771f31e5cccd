"""SentencePiece models (unigram or BPE), and the same pipeline as a `tokenizer.json`."""

import unicodedata
from collections.abc import Sequence

import numpy as np
import sentencepiece
import tokenizers as hf
from etils import epath
from jaxtyping import Int32

from pd_jax import files
from pd_jax.data.tokenizers import vocabulary
from pd_jax.errors import TokenizerError

MODEL_FILE = "spiece.model"

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_APART = "\uffff"
"""A noncharacter, which no text has."""
_COMPOSED = "".join(
    letter
    for letter in map(chr, range(0xC0, 0x2000))
    if unicodedata.is_normalized("NFC", letter) and not unicodedata.is_normalized("NFD", letter)
)
"""The letters with marks of their own."""
_MARK = r"[\p{M}\u200c\u200d\u0e33\u0eb3]"
"""What stands with the letter before it as one for Precompiled: marks, joiners, two vowels."""
_FIXED = rf"[{_MARK}&&[^\u0300-\u036f]]"
"""Those of them that never compose."""


class SentencePiece:
    """A SentencePiece `.model`."""

    def __init__(self, model: bytes, *, where: str = "the model"):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as fault:
            raise TokenizerError(
                f"{where} is not a SentencePiece model ({fault}); use the file as it was released"
            ) from None
        self._content = model
        self.vocab_size = self._processor.get_piece_size()
        self.pieces = tuple(map(self._processor.id_to_piece, range(self.vocab_size)))
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        self._special = vocabulary.special_tokens(ids, where)
        special = [ids[name] for name in self._special.values()]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = special
        self._ids_of_text = vocabulary.ids_of_text(
            self.vocab_size, unk_id=self.unk_id, special=special
        )
        names = set(self._special.values())
        self.word_starts = np.array(
            [piece.startswith(_SPACE) or piece in names for piece in self.pieces]
        )
        self.fingerprint = files.digest_bytes(b"sentencepiece", model)

    def encode(
        self, texts: Sequence[str], *, limit: int | None = None
    ) -> list[Int32[np.ndarray, " tokens"]]:
        """Returns each text's ids without special tokens; of long texts the first `limit` only."""
        return [vocabulary.encode_in_parts(self._encode, text, limit=limit) for text in texts]

    def save(self, folder: epath.PathLike) -> None:
        """Writes spiece.model, tokenizer.json and tokenizer_config.json."""
        folder = epath.Path(folder)
        written = (MODEL_FILE, vocabulary.JSON_FILE, vocabulary.CONFIG_FILE)
        vocabulary.make_way(folder, written)
        files.write_bytes(folder / MODEL_FILE, self._content)
        vocabulary.save_definition(folder, _equivalent(self._content), self._special)
        vocabulary.save_config(folder, "PreTrainedTokenizerFast", self._special, {})

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._processor.encode(list(texts), out_type=int)
        return [self._ids_of_text[np.array(ids, np.int32)] for ids in found]


def _equivalent(model: bytes) -> hf.Tokenizer:
    """Returns the same tokenizer made of the tokenizers library's parts."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto = getattr(messages, "ModelProto")()  # noqa: B009  (made at run time, unknown to checkers)
    proto.ParseFromString(model)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unk = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == _UNIGRAM:
        made = hf.models.Unigram(pieces, unk_id=unk, byte_fallback=proto.trainer_spec.byte_fallback)
    elif proto.trainer_spec.model_type == _BPE:
        made = hf.models.BPE(
            {piece: number for number, (piece, _) in enumerate(pieces)},
            _merges(pieces),
            unk_token=pieces[unk][0],
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    else:
        raise TokenizerError(
            "a SentencePiece model for BERT must be of type unigram or bpe; train one"
        )
    whole = hf.Tokenizer(made)
    steps = [
        hf.normalizers.Replace(hf.Regex(r" {2,}"), " "),
        hf.normalizers.Replace(hf.Regex(r"\A | \z"), ""),  # Strip would take other white space too
    ]
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        steps = [*_as_mapped(charsmap), *steps]
    whole.normalizer = hf.normalizers.Sequence(steps)
    whole.pre_tokenizer = hf.pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    whole.decoder = hf.decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    return whole


def _as_mapped(charsmap: bytes) -> list[hf.normalizers.Normalizer]:
    """Returns the steps that map text as SentencePiece does.

    Precompiled looks up a letter with its marks as one, but takes the mapping of the letter alone,
    and the marks are lost. So a letter is composed with the marks behind it that it has a form
    with, and all other marks are set apart, by a character that is removed in the end. The marks
    that SentencePiece composes with nothing are set apart before, or they would be sorted (of
    Arabic, a shadda behind its vowel) and composed (of Vietnamese, a tone behind a vowel's sign).
    """
    # Nothing is to be set apart at the beginning, where the library fails.
    before = rf"(?!\A)(?={_FIXED})|(?<=[{_COMPOSED}])(?={_MARK})"
    after = rf"(?!\A)(?={_MARK})"
    return [
        hf.normalizers.Replace(hf.Regex(before), _APART),
        hf.normalizers.NFC(),
        hf.normalizers.Replace(hf.Regex(after), _APART),
        hf.normalizers.Precompiled(charsmap),
        hf.normalizers.Replace(_APART, ""),
    ]


def _merges(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """Returns the merges, best first, that build a BPE model's pieces out of its shorter ones."""
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in halves if left in ids and right in ids]
        merges += [(-score, ids[left], ids[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(merges)]
