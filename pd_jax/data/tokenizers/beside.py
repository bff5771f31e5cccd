"""What files beside a tokenizer's file say of it to transformers: its class, options and tokens."""

import itertools
from collections.abc import Container, Mapping
from typing import Any

from etils import epath

from pd_jax import files
from pd_jax.data.tokenizers.vocabulary import CONFIG_FILE, SPECIAL
from pd_jax.errors import TokenizerError

ADDED_FILE = "added_tokens.json"
MODEL_FILE = "config.json"
BERT_CLASSES = {
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "FunnelTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MPNetTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
}
"""transformers' classes that are BERT's tokenizer under other names; the config decides case."""
WORDPIECE_CLASSES = BERT_CLASSES | {
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "PreTrainedTokenizer",
    "RetriBertTokenizer",
    "TokenizersBackend",
}
_BERT_MODELS = {"bert", "distilbert", "electra", "mobilebert"}
CHANGING = {"albert": "AlbertTokenizer", "xlnet": "XLNetTokenizer"}
"""Kinds of model whose tokenizers change case, accents or quotes before a `.model` reads a text."""


def check_added(path: epath.Path, options: Mapping[str, Any], pieces: Container[str]) -> None:
    """Raises TokenizerError where a file beside a vocab.txt adds a token that transformers would
    find in texts, or number after the vocabulary's end.
    """
    file, config = path.parent / ADDED_FILE, path.parent / CONFIG_FILE
    by_name = files.read_object(file, TokenizerError) if file.exists() else {}
    by_number = options.get("added_tokens_decoder") or {}
    if not isinstance(by_number, dict) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str)
        for token in by_number.values()
    ):
        raise TokenizerError(
            f"{config} has an added_tokens_decoder that is not a table of tokens; use the file as"
            " it was released"
        )
    special = set(itertools.chain.from_iterable(SPECIAL.values()))
    added = [(file, name, name in special) for name in by_name]
    added += [
        (config, token["content"], token.get("special") is True) for token in by_number.values()
    ]
    for where, name, is_special in added:
        if not is_special or name not in pieces:
            raise TokenizerError(
                f"{where} adds the token {name[:40]!r} to {path.name}, which is read alone here;"
                " write a tokenizer.json with from_pretrained and save_pretrained of transformers'"
                " AutoTokenizer, and name that file"
            )


def config_beside(path: epath.Path) -> tuple[str | None, dict[str, Any]]:
    """Returns transformers' class for a file, without `Fast`, and the tokenizer's options.

    The class is None where nothing indicates one. It is named by `tokenizer_config.json` or
    `config.json`, or follows from the kind of model.

    Raises:
      TokenizerError: where words are split by a program that is not supported.
    """
    options, model = (
        files.read_object(beside, TokenizerError) if beside.exists() else {}
        for beside in (path.parent / CONFIG_FILE, path.parent / MODEL_FILE)
    )
    words = options.get("word_tokenizer_type") or "basic"
    if words != "basic":
        raise TokenizerError(
            f"{path.parent / CONFIG_FILE} has word_tokenizer_type {str(words)[:40]!r}, but only"
            " 'basic' is supported; name another tokenizer"
        )
    kind = options.get("tokenizer_class") or model.get("tokenizer_class")
    if kind is None:
        of = str(model.get("model_type"))
        if path.suffix == ".model":
            return CHANGING.get(of), options
        return ("BertTokenizer" if of in _BERT_MODELS else None), options
    if not isinstance(kind, str):
        raise TokenizerError(
            f"{path} has a config beside it whose tokenizer_class is {str(kind)[:40]!r} and not"
            " a name; use the files as they were released"
        )
    return kind.removesuffix("Fast"), options
