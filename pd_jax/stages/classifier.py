"""What a classifier in a folder answers: its task, and the names and number of its outputs."""

import dataclasses
from typing import NamedTuple

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.data.tokenizers.vocabulary import SPECIAL
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.weights import hf, hf_config

_UNNAMED_OUTPUTS = 2
"""Outputs of a classifier whose config.json names none: transformers omits the default of two."""


class Read(NamedTuple):
    """What a tokenizer made of texts: how many were cut, all tokens, how many of these are [UNK],
    and the tokens of the longest text.
    """

    cut: int
    tokens: int
    unknown: int
    longest: int


def load_classifier(folder: str) -> tuple[hf.SavedModel, Tokenizer]:
    """Returns a model and its tokenizer, with transformers' default task and labels if unnamed.

    Raises:
      ConfigError: the model has no classifier.
      WeightsError: the tokenizer belongs to another model.
    """
    model, tokenizer = hf.load(folder), load_tokenizer(folder)
    if "classifier" not in model.params:
        raise ConfigError(f"{folder} has no classifier; name a fine-tuned or distilled model")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise WeightsError(
            f"{folder} has a tokenizer with {tokenizer.vocab_size} entries and a model with "
            f"{model.config.vocab_size}; take both from the same source"
        )
    if tokenizer.vocab_size <= len(SPECIAL):
        raise WeightsError(
            f"{folder} has a tokenizer with no words, only special tokens; save its whole "
            "vocabulary there"
        )
    outputs = model.params["classifier"]["bias"].shape[0]
    task, labels = _as_transformers(model.task, model.labels, outputs)
    check_values(folder, task, outputs)
    return dataclasses.replace(model, labels=labels, task=task), tokenizer


def check_pairs(model: hf.SavedModel, *, pairs: bool, name: str = "the model") -> None:
    """Raises ConfigError where rows have two texts and a model cannot tell one from the other."""
    if pairs and model.config.token_types < 2:
        raise ConfigError(
            f"{name} has type_vocab_size=1, so that it cannot tell a row's second text from its "
            "first; name a model that was trained on pairs, or leave the second text out"
        )


def check_positions(name: str, positions: int, longest: int) -> None:
    """Raises ConfigError where a model cannot read rows of `longest` tokens."""
    if longest > positions:
        raise ConfigError(
            f"{name} can read {positions} tokens, but rows are cut at {longest}; cut them at "
            f"{positions} or fewer"
        )


def beyond_training(folder: str, longest: int) -> str | None:
    """Returns what to know of a BERT that reads rows of `longest` tokens, if its tokenizer states a
    shorter length: that of the rows it was trained on, as pd_jax writes it, so that its later
    positions are as they were initialised. What others write there may be less than that.
    """
    reads = hf.reads(folder)
    if longest <= reads:
        return None
    return (
        f"the tokenizer of {folder} states model_max_length={reads}, and rows of up to {longest} "
        f"tokens are read here, whose later positions may never have been trained; cut them at "
        f"{reads}, or correct model_max_length if the model was trained on longer rows"
    )


def declared_task(folder: epath.Path) -> tuple[str, tuple[str, ...]]:
    """Returns the task and labels of a classifier of any architecture, from its `config.json`.

    They are those of `load_classifier`, except that a regression has no labels.

    Raises:
      WeightsError: the file is damaged or names no such task or labels.
    """
    path = folder / hf.CONFIG_FILE
    values = files.read_object(path, WeightsError)
    named = values.get("id2label")
    outputs = len(named) if isinstance(named, dict) and named else _UNNAMED_OUTPUTS
    head = {"classifier": {"bias": np.zeros(outputs)}}
    labels, task = hf_config.labels_from(values, head, path)
    task, labels = _as_transformers(task, labels, outputs)
    check_values(str(folder), task, outputs)
    return task, () if task == "regression" else labels


def check_values(model: str, task: str, outputs: int) -> None:
    """Raises WeightsError where a regression gives several values: a task has one."""
    if task == "regression" and outputs > 1:
        raise WeightsError(
            f"{model} gives {outputs} values of a regression, and one can be learnt; correct "
            "problem_type in its config.json, or name a model with one output"
        )


def output_names(model: str, labels: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of a model's outputs: its `own` (a regression has none), or the `labels`
    that a stage gives them.
    """
    named = labels or own
    if not all(isinstance(name, str) for name in named) or len(set(named)) < len(named):
        raise ConfigError(
            f"the outputs of {model} are called {named}, but outputs are distinguished by name; "
            "give each its own name, in their order, with labels"
        )
    if named == own:
        return own
    if set(labels) == set(own):
        raise ConfigError(
            f"labels={labels}, but {model} calls its outputs {own}; leave labels out, and list "
            "labelled rows' in the model's order in examples.labels"
        )
    if len(labels) != len(own):
        raise ConfigError(
            f"labels names {len(labels)} labels, but {model} has {len(own)} outputs; name each "
            "output once"
        )
    return labels


def _as_transformers(
    task: str | None, labels: tuple[str, ...], outputs: int
) -> tuple[str, tuple[str, ...]]:
    """Returns task and labels, with transformers' defaults where a config names none."""
    return (
        task or ("regression" if outputs == 1 else "classification"),
        labels or tuple(f"LABEL_{index}" for index in range(outputs)),
    )
