"""What an exported model computes: the reference outputs that every format is compared with."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pd_jax.errors import WeightsError
from pd_jax.models.bert import Bert
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""The inputs of every export, int [batch, length], by the names transformers gives them."""

Outputs = dict[str, Any]
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]

_WHOLE = ({"bert"}, {"bert", "classifier"}, {"bert", "mlm"}, {"bert", "mlm", "nsp"})
_MASKED = {"bert", "mlm"}
_PROBES = ((2, 1), (4, 40), (1, 128))


class Difference(NamedTuple):
    """How far another program's outputs are from ours: the largest difference, and our largest
    output.
    """

    largest: float
    scale: float

    def fits(self, tolerance: float) -> bool:
        """Returns whether it is rounding: below `tolerance`, relative to outputs above 1.

        Outputs that are not finite never fit.
        """
        return math.isfinite(self.largest) and self.largest <= tolerance * max(1.0, self.scale)


def make_forward(
    config: BertConfig, params: Mapping[str, Any]
) -> Callable[[Int[Array, "batch seq"], Int[Array, "batch seq"], Int[Array, "batch seq"]], Outputs]:
    """Returns the model's inference as a pure function of INPUTS to outputs by name.

    A classifier gives `logits` [batch, outputs]; a masked language model gives `logits` [batch,
    length, vocabulary], and `next_sentence_logits` if it has that head too; a bare encoder gives
    `last_hidden_state` and `pooler_output`. All are float32.

    Raises:
      WeightsError: the model has other heads, or none and no pooler.
    """
    if set(params) not in _WHOLE or ("pooler" not in params["bert"] and set(params) != _MASKED):
        raise WeightsError(
            f"a model of {', '.join(sorted(params))} cannot be exported; it needs an mlm head, "
            "alone or with nsp, a classifier, or no head, and its pooler except for mlm alone"
        )
    if "classifier" in params:
        task = TaskModel(config, params["classifier"]["bias"].shape[0])
        return lambda *inputs: {"logits": task.apply({"params": params}, *inputs)}
    if set(params) == _MASKED:
        return _masked(config, params)
    if "mlm" in params:
        model = PretrainingModel(config)

        def pretrained(ids: Any, segments: Any, mask: Any) -> Outputs:
            logits, nsp = model.apply({"params": params}, ids, segments, mask, _everywhere(ids))
            return {"logits": logits, "next_sentence_logits": nsp}

        return pretrained
    encoder = Bert(config)

    def bare(ids: Any, segments: Any, mask: Any) -> Outputs:
        encoded: Any = encoder.apply({"params": params["bert"]}, ids, segments, mask)
        return {"last_hidden_state": encoded.sequence, "pooler_output": encoded.pooled}

    return bare


def _masked(config: BertConfig, params: Mapping[str, Any]) -> Callable[..., Outputs]:
    """Returns `make_forward` of a masked language model without the next-sentence head."""
    model = PretrainingModel(config)

    def masked(ids: Any, segments: Any, mask: Any) -> Outputs:
        tokens = (_everywhere(ids), ids, segments, mask)
        return {"logits": model.apply({"params": params}, *tokens, method="masked_logits")}

    return masked


def _everywhere(ids: Any) -> Array:
    """Returns every position of every row."""
    return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)


def output_axes(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns the outputs' names and the names of their axes, in order."""
    if "classifier" in params:
        return {"logits": ("batch", "outputs")}
    if "mlm" in params:
        after = {"next_sentence_logits": ("batch", "classes")} if "nsp" in params else {}
        return {"logits": ("batch", "length", "vocabulary"), **after}
    return {
        "last_hidden_state": ("batch", "length", "hidden"),
        "pooler_output": ("batch", "hidden"),
    }


def probes(config: BertConfig) -> Iterator[Batch]:
    """Yields batches of several sizes and lengths, padded and not, of random ids and segments."""
    random = np.random.default_rng(0)
    for rows, length in _PROBES:
        length = min(length, config.positions)
        ids = random.integers(0, config.vocab_size, (rows, length))
        kept = np.linspace(length, max(1, length // 4), rows).astype(int)[:, None]
        mask = (np.arange(length) < kept).astype(np.int64)
        segments = ((np.arange(length) >= kept // 2) & (mask > 0)).astype(np.int64)
        yield ids * mask, segments % config.token_types, mask


def difference(
    config: BertConfig,
    ours: Callable[..., Mapping[str, Any]],
    theirs: Callable[..., Mapping[str, Any]],
) -> Difference:
    """Returns the largest difference of any output over all probes, padding left out; infinite
    where an output is not finite.

    Raises:
      WeightsError: an output has another shape than ours.
    """
    largest = scale = 0.0
    for batch in probes(config):
        expected, found = ours(*batch), theirs(*batch)
        for name, value in expected.items():
            value, other = np.asarray(value), np.asarray(found[name])
            if other.shape != value.shape:
                raise WeightsError(
                    f"the export gives {name} of shape {list(other.shape)} where the model gives "
                    f"{list(value.shape)}; nothing was written, please report it as a bug of pd_jax"
                )
            if value.ndim == 3:
                value, other = value[batch[2] > 0], other[batch[2] > 0]
            finite = np.isfinite(value).all() and np.isfinite(other).all()
            largest = max(largest, float(np.abs(value - other).max()) if finite else math.inf)
            scale = max(scale, float(np.abs(value).max()))
    return Difference(largest, scale)
