"""A Hugging Face folder's `config.json`: the shape of a BERT, its heads, labels and task.

google-research/bert's `bert_config.json` uses the same keys for the shape.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import pd_jax
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.sizes import BertConfig

OURS = "pd_jax_version"
"""The key by which a config tells that pd_jax wrote the model; transformers passes over it."""
_GELU = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_PROBLEM = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
}
ARCHITECTURES = {
    frozenset({"bert"}): "BertModel",
    frozenset({"bert", "mlm"}): "BertForMaskedLM",
    frozenset({"bert", "nsp"}): "BertForNextSentencePrediction",
    frozenset({"bert", "mlm", "nsp"}): "BertForPreTraining",
    frozenset({"bert", "classifier"}): "BertForSequenceClassification",
}
FIELDS = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "norm_epsilon": "layer_norm_eps",
}
"""BertConfig's fields and their names in config.json."""
_LARGEST = 1 << 24
_RANGES = {
    "dropout": (0, 1),
    "attention_dropout": (0, 1),
    "initializer_range": (0, 100),
    "norm_epsilon": (0, 1),
}
"""What fractions may be; all other fields are whole numbers from 1 to _LARGEST."""

_MOST_LAYERS = 1000
_OPTIONAL = {"token_types", "dropout", "attention_dropout", "initializer_range", "norm_epsilon"}


def shape_from(values: Mapping[str, Any], *, where: object) -> BertConfig:
    """Returns the shape that a config describes; raises WeightsError naming the key at fault."""
    if values.get("model_type", "bert") != "bert":
        raise WeightsError(
            f"{where} is for a {values['model_type']!r}; only models of type 'bert' can be read"
        )
    for key, fine in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if values.get(key, fine) != fine:
            raise WeightsError(
                f"{where} has {key}={values[key]!r}; only BERTs with {key}={fine!r} can be read"
            )
    activation = values.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _GELU:
        raise WeightsError(
            f"{where} has hidden_act={activation!r}; only {', '.join(_GELU)} can be read"
        )
    given = {
        ours: values[theirs] for ours, theirs in FIELDS.items() if values.get(theirs) is not None
    }
    if missing := [
        theirs for ours, theirs in FIELDS.items() if ours not in given and ours not in _OPTIONAL
    ]:
        raise WeightsError(
            f"{where} lacks {', '.join(missing)}; take the config that belongs to the weights"
        )
    for ours, value in given.items():
        largest = _MOST_LAYERS if ours == "layers" else _LARGEST
        lowest, highest = _RANGES.get(ours, (1, largest))
        whole = ours not in _RANGES
        if type(value) not in ((int,) if whole else (int, float)) or not lowest <= value <= highest:
            raise WeightsError(
                f"{where} has {FIELDS[ours]}={repr(value)[:40]}; it must be "
                f"{'a whole number' if whole else 'a number'} from {lowest} to {highest}"
            )
    try:
        return BertConfig(**given, gelu=_GELU[activation])
    except (ConfigError, TypeError) as fault:
        raise WeightsError(f"{where} does not describe a BERT: {fault}") from None


def has_other_activation(values: Mapping[str, Any], *, where: object) -> bool:
    """Returns whether all that keeps a BERT from being computed here is its activation; raises
    WeightsError as `shape_from` where a BERT with another activation has other faults.
    """
    activation = values.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation in _GELU:
        return False
    shape_from({**values, "hidden_act": "gelu"}, where=where)
    return True


def values_of(
    config: BertConfig, params: Mapping[str, Any], *, labels: Sequence[str], task: str | None
) -> dict[str, Any]:
    """Returns the config.json of a model with these parameters."""
    if task not in (None, *_PROBLEM):
        raise WeightsError(f"task {task!r} cannot be saved; it is one of {', '.join(_PROBLEM)}")
    values: dict[str, Any] = {"architectures": [architecture(params)], "model_type": "bert"}
    values |= {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    values |= {
        "hidden_act": "gelu" if config.gelu == "exact" else "gelu_new",
        "torch_dtype": "float32",
        OURS: pd_jax.__version__,
    }
    if "classifier" in params:
        outputs = params["classifier"]["bias"].shape[0]
        if labels and len(labels) != outputs:
            raise WeightsError(
                f"{len(labels)} labels were given for a classifier of {outputs} outputs; name each"
            )
        names = list(labels) or _unnamed(outputs)
        values["id2label"] = {str(index): name for index, name in enumerate(names)}
        values["label2id"] = {name: index for index, name in enumerate(names)}
        if task is not None:
            values["problem_type"] = _PROBLEM[task]
    return values


def architecture(params: Mapping[str, Any]) -> str:
    """Returns the transformers class of a model with these subtrees."""
    try:
        return ARCHITECTURES[frozenset(params)]
    except KeyError:
        raise WeightsError(
            f"a model of {', '.join(sorted(params))} has no Hugging Face class; keep the heads "
            "of pre-training (mlm, nsp) or the classifier"
        ) from None


def labels_from(
    values: Mapping[str, Any], params: Mapping[str, Any], where: object
) -> tuple[tuple[str, ...], str | None]:
    """Returns the classifier's labels and task; both empty without a classifier."""
    if "classifier" not in params:
        return (), None
    outputs = params["classifier"]["bias"].shape[0]
    given = values.get("id2label") or {}
    fine = isinstance(given, dict) and all(
        str(index).isdecimal() and len(str(index)) < 10 and isinstance(name, str)
        for index, name in given.items()
    )
    if not fine:
        raise WeightsError(
            f"{where} has an id2label that does not map numbers to names; correct it"
        )
    named = {int(index): name for index, name in given.items()}
    if named and sorted(named) != list(range(outputs)):
        raise WeightsError(
            f"{where} names {len(named)} labels for a classifier of {outputs} outputs; "
            "correct its id2label"
        )
    labels = [named[index] for index in sorted(named)]
    if repeated := [name for name, count in collections.Counter(labels).items() if count > 1]:
        raise WeightsError(
            f"{where} names several labels {repeated[0]!r}; give each its own name in id2label"
        )
    if labels == _unnamed(outputs):
        labels = []
    problem = values.get("problem_type")
    tasks = {theirs: ours for ours, theirs in _PROBLEM.items()}
    if problem is not None and (not isinstance(problem, str) or problem not in tasks):
        raise WeightsError(f"{where} has problem_type={problem!r}; it is one of {', '.join(tasks)}")
    return tuple(labels), None if problem is None else tasks[problem]


def _unnamed(outputs: int) -> list[str]:
    """Returns the names that transformers gives to labels without names."""
    return [f"LABEL_{index}" for index in range(outputs)]
