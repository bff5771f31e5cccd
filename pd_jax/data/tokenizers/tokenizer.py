"""Tokenizers behind one interface: loaded from files of every kind, or trained on text.

Text never yields special tokens: a row that spells out `[MASK]` gets the pieces of those letters.
"""

import collections
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import sentencepiece
import tokenizers as hf
from etils import epath
from jaxtyping import Bool, Int32

from pd_jax import files
from pd_jax.config import TokenizerStage
from pd_jax.data.text.corpora import sampled
from pd_jax.data.tokenizers.beside import (
    ADDED_FILE,
    BERT_CLASSES,
    CHANGING,
    MODEL_FILE,
    config_beside,
)
from pd_jax.data.tokenizers.json_tokenizer import JsonTokenizer
from pd_jax.data.tokenizers.sentencepieces import SentencePiece
from pd_jax.data.tokenizers.vocab_text import from_vocab
from pd_jax.data.tokenizers.vocabulary import CONFIG_FILE, JSON_FILE, SPECIAL, VOCAB_FILE
from pd_jax.data.tokenizers.wordpieces import WordPiece
from pd_jax.errors import TokenizerError
from pd_jax.workdir import OUTPUT

_LONGEST_SENTENCE = 1 << 16
_THREADS = 16
_LETTERS = 1_000
_COVERED = 0.9995


class Tokenizer(Protocol):
    """Text to token ids. `fingerprint` is a digest of whatever decides the ids."""

    vocab_size: int
    pieces: tuple[str, ...]
    """What each id stands for."""
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    fingerprint: str
    word_starts: Bool[np.ndarray, " vocabulary"]
    """Whether a piece begins a word, for masking whole words."""

    def encode(
        self, texts: Sequence[str], *, limit: int | None = None
    ) -> list[Int32[np.ndarray, " tokens"]]:
        """Returns each text's ids without special tokens; of long texts the first `limit` only."""
        ...

    def save(self, folder: epath.PathLike) -> None:
        """Writes the files from which `load_tokenizer` and transformers' AutoTokenizer read it."""
        ...


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer in a `vocab.txt`, `tokenizer.json` or `.model` file, or a folder.

    In a folder a `.model` is preferred, then `tokenizer.json`, then `vocab.txt`; but not a `.model`
    for which the configs beside it have text changed, as ALBERT's lower-cases it. A `vocab.txt`
    without `tokenizer_config.json` beside it is lower-cased where it contains no capitals, and
    keeps accents where its pieces need them.
    Added tokens that are not special are found in texts as the tokenizers library finds them.
    The configs beside a `tokenizer.json` overrule it where transformers' classes do.

    Raises:
      TokenizerError: where there is none, or it is damaged, lacks a special token, splits words in
        an unsupported way, or is a `vocab.txt` to which a file beside it adds tokens or that does
        not tell whether accents are stripped.
    """
    path = epath.Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.exists():
        raise TokenizerError(
            f"{path} does not exist; name a vocab.txt, tokenizer.json or .model file"
        )
    if path.suffix == ".model":
        if _is_given_other_text(path):
            raise TokenizerError(
                f"{path} is read alone here, but the config beside it has case or accents changed"
                " before; write a tokenizer.json with from_pretrained and save_pretrained of"
                " transformers' AutoTokenizer, and name that file"
            )
        return SentencePiece(path.read_bytes(), where=str(path))
    if path.suffix == ".json":
        return _from_json(path)
    return from_vocab(path)


def read_with(path: epath.Path) -> list[epath.Path]:
    """Returns the files beside a tokenizer's file that decide how `load_tokenizer` reads it."""
    if path.suffix == ".model":
        return []
    beside = (path.parent / name for name in (CONFIG_FILE, MODEL_FILE, ADDED_FILE))
    return [file for file in beside if file.exists()]


def train_tokenizer(sentences: Iterator[str], stage: TokenizerStage) -> Tokenizer:
    """Returns a tokenizer trained on sentences, or on an even sample of `stage.sample_sentences`.

    Memory is bounded by the sample. Equal sentences and stages give equal tokenizers.

    Raises:
      TokenizerError: where there is no text, or too little for so large a vocabulary.
    """
    limit = stage.sample_sentences
    sample = list(sentences) if limit is None else sampled(sentences, limit=limit, seed=stage.seed)
    if not any(sample):
        raise TokenizerError("there is no text to train a tokenizer on; give a source with text")
    if stage.algorithm == "wordpiece":
        return _train_wordpiece(sample, stage)
    return _train_sentencepiece(sample, stage)


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Returns the share of the texts' tokens that are [UNK]; 0 where there are no tokens."""
    ids = np.concatenate([np.zeros(0, np.int32), *tokenizer.encode(texts)])
    return float((ids == tokenizer.unk_id).mean()) if len(ids) else 0.0


def _train_wordpiece(sample: list[str], stage: TokenizerStage) -> WordPiece:
    model = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    model.normalizer = hf.normalizers.BertNormalizer(
        lowercase=stage.lowercase, strip_accents=stage.strip_accents
    )
    model.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    special = [names[0] for names in SPECIAL.values()]
    # Each letter takes two places: alone and inside words.
    most = max(_LETTERS, (stage.vocab_size - len(special)) // 2)
    letters = _alphabet(sample, model.normalizer, most=most)
    # By default the library numbers the letters inside words in the order of a hash table, and
    # breaks ties by those numbers. Given in advance, their order is the same in every process.
    inside = [f"##{letter}" for letter in letters]
    trainer = hf.trainers.WordPieceTrainer(
        vocab_size=max(stage.vocab_size, len(special) + 2 * len(letters)),
        special_tokens=special + inside,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    model.train_from_iterator(sample, trainer, length=len(sample))
    ids = model.get_vocab()
    return WordPiece(
        sorted(ids, key=ids.__getitem__),
        lowercase=stage.lowercase,
        strip_accents=stage.strip_accents,
    )


def _alphabet(sample: list[str], normalizer: hf.normalizers.Normalizer, *, most: int) -> list[str]:
    """Returns the most frequent letters and marks of normalised text, in their order.

    More than a thousand, at most `most`, are taken only where a script needs them: English text
    has thousands of foreign letters too, whose places are better left to its words.
    """
    counts: collections.Counter[str] = collections.Counter()
    for sentence in sample:
        counts.update(normalizer.normalize_str(sentence))
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    covered = itertools.accumulate(counts[letter] for letter in ranked)
    enough = sum(count < _COVERED * counts.total() for count in covered) + 1
    taken = ranked[: max(_LETTERS, min(most, enough))]
    return sorted(letter for letter in taken if not letter.isspace())


def _train_sentencepiece(sample: list[str], stage: TokenizerStage) -> SentencePiece:
    pad, unk, *others = (names[0] for names in SPECIAL.values())
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=stage.algorithm,
            vocab_size=stage.vocab_size,
            normalization_rule_name="nmt_nfkc_cf" if stage.lowercase else "nmt_nfkc",
            pad_id=0, pad_piece=pad, unk_id=1, unk_piece=unk, bos_id=-1, eos_id=-1,
            control_symbols=others,
            max_sentence_length=_LONGEST_SENTENCE,
            num_threads=_THREADS,  # sums depend on it, so it does not follow the cores
            minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, ValueError) as fault:
        reason = str(fault).split(") ")[-1].strip()
        raise TokenizerError(
            f"a {stage.algorithm} vocabulary of {stage.vocab_size} cannot be trained on this text"
            f" ({reason}); give more text or a smaller vocab_size, or where its letters alone are"
            " more, a larger one"
        ) from None
    return SentencePiece(model.getvalue())


def _file_in(folder: epath.Path) -> epath.Path:
    models = files.matching(folder, "*.model")
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise TokenizerError(f"{folder} has several tokenizers ({names}); name one of the files")
    definition = folder / JSON_FILE
    if models and definition.exists() and _is_given_other_text(models[0]):
        return definition
    for path in (*models, definition, folder / VOCAB_FILE):
        if path.exists():
            return path
    inside = (folder / OUTPUT[kind] for kind in ("tokenizer", "train"))  # of a stage's folder
    named = next((one for one in inside if one.is_dir()), "another folder")
    raise TokenizerError(f"{folder} has no vocab.txt, tokenizer.json or .model file; name {named}")


def _is_given_other_text(model: epath.Path) -> bool:
    """Returns whether the configs beside a `.model` have text changed before it reads it."""
    kind, options = config_beside(model)
    return kind in CHANGING.values() or bool(options.get("do_lower_case"))


def _from_json(path: epath.Path) -> WordPiece | JsonTokenizer:
    definition = files.read_object(path, TokenizerError)
    if not _has_its_parts(definition):
        raise TokenizerError(f"{path} is not a tokenizer of the tokenizers library; save it again")
    kind, options = config_beside(path)
    model, normalizer = definition["model"], definition.get("normalizer") or {}
    if kind in BERT_CLASSES and normalizer.get("type") == "BertNormalizer":
        # These classes rebuild the normalizer, with their defaults for what is not given.
        normalizer = {
            **normalizer,
            "lowercase": options.get("do_lower_case", True),
            "strip_accents": options.get("strip_accents"),
            "handle_chinese_chars": options.get("tokenize_chinese_chars", True),
        }
        definition["normalizer"] = normalizer
    vocabulary = model.get("vocab")
    unknown = str(model.get("unk_token", "[UNK]"))
    words = vocabulary if model.get("type") == "WordPiece" else None
    if isinstance(words, dict) and unknown not in words:
        raise TokenizerError(
            f"{path} has no {unknown[:40]!r} in its WordPiece vocabulary, for unknown words;"
            " add it there"
        )
    bert = (
        model.get("type") == "WordPiece"
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == 100
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and {"lowercase", "strip_accents", "handle_chinese_chars"} <= set(normalizer)
        and (definition.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and isinstance(vocabulary, dict)
        and all(type(number) is int for number in vocabulary.values())
        and sorted(vocabulary.values()) == list(range(len(vocabulary)))
        and all(
            token["special"] and token["content"] in vocabulary
            for token in definition.get("added_tokens") or ()
        )
    )
    if not bert:
        return JsonTokenizer(definition, where=str(path))
    return WordPiece(
        sorted(vocabulary, key=vocabulary.__getitem__),
        lowercase=normalizer["lowercase"],
        strip_accents=normalizer["strip_accents"],
        split_chinese=normalizer["handle_chinese_chars"],
        where=str(path),
    )


def _has_its_parts(definition: dict) -> bool:
    """Returns whether the parts of a tokenizer.json that are read exist, with the right types."""
    added = definition.get("added_tokens") or []
    return (
        isinstance(definition.get("model"), dict)
        and isinstance(definition.get("normalizer") or {}, dict)
        and isinstance((definition.get("normalizer") or {}).get("lowercase", True), bool)
        and isinstance(definition.get("pre_tokenizer") or {}, dict)
        and isinstance(added, list)
        and all(
            isinstance(token, dict)
            and isinstance(token.get("content"), str)
            and isinstance(token.get("special"), bool)
            and type(token.get("id")) is int
            for token in added
        )
    )
