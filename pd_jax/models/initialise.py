"""First weights from another model: all of it, chosen layers of a deeper one, or its embeddings.

Every parameter is either loaded or fresh on purpose, and the report says which; all else raises.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax import config as config_lib
from pd_jax.errors import WeightsError
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import layout
from pd_jax.models.weights.hf import SavedModel

_LAYER = re.compile(r"bert/layer_(\d+)/")
_SCOPES = {
    "model": "",
    "embeddings": "bert/embeddings/",
    "word_embeddings": "bert/embeddings/word/",
}
_POOLED = ("bert/pooler/", "nsp/")
_OF_VOCABULARY = ("bert/embeddings/word/embedding", "mlm/bias")


@dataclasses.dataclass(frozen=True)
class InitReport:
    """Where each parameter's first value came from.

    `loaded` maps a parameter's path to the source's path, with `[:rows]` where only its first rows
    were taken, `fresh` are those left as they were on purpose. Of the source's other tensors,
    `carried` are those that are saved with the model as they are, and `unused` the rest.
    """

    loaded: Mapping[str, str]
    fresh: tuple[str, ...]
    carried: tuple[str, ...]
    unused: tuple[str, ...]

    def text(self) -> str:
        """Returns one line for each path."""
        lines = [f"loaded  {path}" + (f" from {origin}" if origin != path else "")
                 for path, origin in self.loaded.items()]  # fmt: skip
        lines += [f"fresh   {path}" for path in self.fresh]
        lines += [
            f"carried {path} (as in the source; nothing here reads it)" for path in self.carried
        ]
        lines += [f"unused  {path} (of the source)" for path in self.unused]
        return "\n".join(lines) + "\n"


def initialise(
    fresh_params: Mapping[str, Any],
    source: SavedModel,
    init: config_lib.Init,
    *,
    model: BertConfig,
    labels: Sequence[str] = (),
    same_tokenizer: bool = False,
) -> tuple[dict[str, Any], InitReport]:
    """Returns the parameters to begin with, and where each came from.

    Args:
      fresh_params: the model's parameters from its seed: arrays, or only their shapes.
      source: the model to take weights from.
      init: which layers, which part, and whether the task head too.
      model: the shape of the model that begins (`computing_as` the source).
      labels: its classifier's labels in order, compared with the source's when the head is kept.
      same_tokenizer: as the source's, whose rows beyond the vocabulary are then left out.

    Returns:
      A tree like `fresh_params`, numpy float32 where loaded and the very leaf where fresh.

    Raises:
      WeightsError: a tensor is missing or has another shape, or source and model do not compute
        alike (vocabulary, attention heads, layer counts, labels).
    """
    fresh, found = layout.flatten(dict(fresh_params)), layout.flatten(source.params)
    layers: tuple[int, ...] = ()
    if init.scope == "model":
        check_same_heads(source.config, model)
        layers = choose_layers(init.layers, source.config.layers, model.layers)
    if init.head == "keep":
        _check_head(source, labels)
    values, loaded, taken = {}, {}, set()
    for path, leaf in fresh.items():
        origin = _origin(path, init, layers)
        if origin is None or _lacks_whole(source, origin):
            values[path] = leaf
            continue
        if origin not in found:
            raise WeightsError(f"the source lacks {origin}; choose another init.source")
        values[path] = value = _fitted(path, found[origin], leaf, may_cut=same_tokenizer)
        loaded[path] = origin if value is found[origin] else f"{origin}[:{len(value)}]"
        taken.add(origin)
    if not loaded:
        raise WeightsError("init.source has no weights that this model can use; choose another")
    left = tuple(path for path in fresh if path not in loaded)
    beside = tuple(carried(fresh_params, source)) if init.scope == "model" else ()
    unused = tuple(path for path in found if path not in taken and path not in beside)
    return layout.nest(values), InitReport(loaded, left, beside, unused)


def carried(own: Mapping[str, Any], source: SavedModel) -> dict[str, np.ndarray]:
    """Returns the source's pooler and next-sentence head by path, where a masked language model
    with the parameters `own`, which begins with the whole source, has none itself.

    It is saved with them as they are, for a later stage that reads them: trained along without a
    loss, they would only decay.
    """
    if "mlm" not in own:
        return {}
    held = layout.flatten(dict(own))
    return {
        path: value
        for path, value in layout.flatten(source.params).items()
        if path.startswith(_POOLED) and path not in held
    }


def computing_as(source: BertConfig, model: BertConfig) -> BertConfig:
    """Returns the shape of a model that begins with a source's layers: its GELU and the epsilon of
    its norms are the source's, for which the weights were trained.
    """
    return dataclasses.replace(model, gelu=source.gelu, norm_epsilon=source.norm_epsilon)


def choose_layers(choice: str | Sequence[int], deep: int, shallow: int) -> tuple[int, ...]:
    """Returns the source's layer (from 0) for each of a model's layers.

    `every_other` takes each `deep / shallow`th, beginning with the first.

    Raises:
      WeightsError: the counts do not fit the choice.
    """
    if not isinstance(choice, str):
        if len(choice) != shallow or not all(0 <= index < deep for index in choice):
            raise WeightsError(
                f"init.layers={tuple(choice)} must name {shallow} layers, "
                f"each from 0 to {deep - 1}, the source's last"
            )
        return tuple(choice)
    if choice == "all" and deep == shallow:
        return tuple(range(deep))
    if choice == "bottom" and shallow <= deep:
        return tuple(range(shallow))
    if choice == "top" and shallow <= deep:
        return tuple(range(deep - shallow, deep))
    if choice == "every_other" and deep % shallow == 0:
        return tuple(range(0, deep, deep // shallow))
    raise WeightsError(
        f"init.layers={choice!r} cannot make {shallow} layers of the source's {deep}; "
        "use 'bottom', 'top' or a tuple of layer numbers, or choose a source of that depth"
    )


def _origin(path: str, init: config_lib.Init, layers: tuple[int, ...]) -> str | None:
    """Returns the source's path for one of ours, or None where it is to stay fresh."""
    if path.startswith("classifier/"):
        return path if init.head == "keep" else None
    if not path.startswith(_SCOPES[init.scope]):
        return None
    return _LAYER.sub(lambda match: f"bert/layer_{layers[int(match[1])]}/", path)


def _lacks_whole(source: SavedModel, origin: str) -> bool:
    """Returns whether the source was made without the head or pooler that `origin` belongs to."""
    head = origin.split("/")[0]
    if head == "bert":
        return origin.startswith("bert/pooler/") and "pooler" not in source.params["bert"]
    return head not in source.params


def check_same_heads(source: BertConfig, model: BertConfig) -> None:
    """Raises WeightsError where a source's attention heads are not the model's."""
    if source.heads != model.heads:
        raise WeightsError(
            f"the source has {source.heads} attention heads, but this model has {model.heads}; set "
            f"model.heads={source.heads}"
        )


def check_init(source: BertConfig, init: config_lib.Init, model: BertConfig) -> None:
    """Raises WeightsError where the tensors that `init` takes from a source do not fit a model."""
    if init.scope == "model":
        check_same_heads(source, model)
        choose_layers(init.layers, source.layers, model.layers)
    taken = {"word_embeddings": ("hidden",), "embeddings": ("hidden", "positions")}
    for name in taken.get(init.scope, ("hidden", "intermediate", "positions")):
        theirs, ours = getattr(source, name), getattr(model, name)
        if theirs != ours:
            key = "size" if name == "hidden" else name
            raise WeightsError(
                f"init.source={init.source} has {name}={theirs}, but this model has {ours}; change "
                f"model.{key}, or choose another init.source"
            )
    if init.scope != "word_embeddings" and source.token_types != model.token_types:
        raise WeightsError(
            f"init.source={init.source} has type_vocab_size={source.token_types}, but models here "
            f"have {model.token_types}; choose another init.source, or take its words alone with "
            "init.scope='word_embeddings'"
        )


def _check_head(source: SavedModel, labels: Sequence[str]) -> None:
    if "classifier" not in source.params:
        raise WeightsError("init.head='keep', but the source has no task head; set head='fresh'")
    if labels and source.labels and tuple(labels) != source.labels:
        raise WeightsError(
            f"the source's head has labels {', '.join(source.labels)}, but this task has "
            f"{', '.join(labels)}; name the labels in the source's order, or set init.head='fresh'"
        )


def _fitted(path: str, value: np.ndarray, leaf: Any, *, may_cut: bool) -> np.ndarray:
    """Returns the source's tensor; of a table that may be cut, the rows of our vocabulary.

    Released tables sometimes have unused rows: 30,528 for 30,522 words, so that 64 divides them.
    """
    if may_cut and path in _OF_VOCABULARY and len(value) > leaf.shape[0]:
        value = value[: leaf.shape[0]]
    _check_tensor(path, value, leaf)
    return value


def _check_tensor(path: str, value: np.ndarray, leaf: Any) -> None:
    theirs, ours = tuple(value.shape), tuple(leaf.shape)
    if theirs == ours:
        return
    if path in _OF_VOCABULARY and theirs[1:] == ours[1:] and theirs[0] > ours[0]:
        raise WeightsError(
            f"the source's table has {theirs[0] - ours[0]} unused rows beyond this model's "
            f"vocabulary of {ours[0]} entries, and no tokenizer equal to the records' beside it; "
            "put the tokenizer that the records were built with into the source's folder if it is "
            "the source's own, else build the records with the source's"
        )
    if path in _OF_VOCABULARY and theirs[1:] == ours[1:]:
        raise WeightsError(
            f"the source's vocabulary has {theirs[0]} entries, but this model's has {ours[0]}; "
            "build the records with the source's tokenizer"
        )
    remedy = (
        "set init.head='fresh'"
        if path.startswith("classifier/")
        else "give the model the source's width and positions, or choose another init.source"
    )
    raise WeightsError(
        f"{path} has shape {theirs} in the source and {ours} in this model; {remedy}"
    )
