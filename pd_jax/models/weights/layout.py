"""Every tensor of a BERT, by its three names: ours, Hugging Face's, google-research/bert's (TF1).

A kernel here is [in, out], as in TF1; torch stores it as [out, in]. The projections of TF1's two
classifiers (`cls/seq_relationship/output_weights`, `output_weights`) are [out, in] in both.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from pd_jax.errors import WeightsError
from pd_jax.models.sizes import BertConfig

_SHOWN = 8
"""How many names an error lists before it says how many more there are."""


class Tensor(NamedTuple):
    """One tensor: its path here, its other names, its shape here, and where it is transposed."""

    path: str
    hf: str
    tf1: str
    shape: tuple[int, ...]
    hf_transposed: bool = False
    tf1_transposed: bool = False

    def hf_shape(self) -> tuple[int, ...]:
        """Returns the shape that the tensor has in a Hugging Face file."""
        return self.shape[::-1] if self.hf_transposed else self.shape

    def tf1_shape(self) -> tuple[int, ...]:
        """Returns the shape that the tensor has in a TF1 checkpoint."""
        return self.shape[::-1] if self.tf1_transposed else self.shape


def tensors(config: BertConfig, heads: Collection[str], *, outputs: int = 0) -> list[Tensor]:
    """Returns the tensors of an encoder with these of the heads pooler, mlm, nsp and classifier;
    `outputs` are the classifier's.
    """
    found = [*encoder(config)]
    for name, head in {"pooler": pooler, "mlm": mlm, "nsp": nsp}.items():
        found += head(config) if name in heads else ()
    return [*found, *(classifier(config, outputs) if "classifier" in heads else ())]


def encoder(config: BertConfig) -> Iterator[Tensor]:
    """Yields the tensors of embeddings and layers, without the pooler."""
    hidden, grown = config.hidden, config.intermediate
    for ours, theirs, rows in (
        ("word", "word_embeddings", config.vocab_size),
        ("position", "position_embeddings", config.positions),
        ("token_type", "token_type_embeddings", config.token_types),
    ):
        hf, tf1 = f"bert.embeddings.{theirs}.weight", f"bert/embeddings/{theirs}"
        yield Tensor(f"bert/embeddings/{ours}/embedding", hf, tf1, (rows, hidden))
    yield from _norm("bert/embeddings/norm", "bert.embeddings.LayerNorm", hidden)
    for index in range(config.layers):
        ours, theirs = f"bert/layer_{index}", f"bert.encoder.layer.{index}"
        for name in ("query", "key", "value"):
            yield from _dense(
                f"{ours}/attention/{name}", f"{theirs}.attention.self.{name}", hidden, hidden
            )
        yield from _dense(
            f"{ours}/attention/output", f"{theirs}.attention.output.dense", hidden, hidden
        )
        yield from _norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm", hidden)
        yield from _dense(f"{ours}/mlp_in", f"{theirs}.intermediate.dense", hidden, grown)
        yield from _dense(f"{ours}/mlp_out", f"{theirs}.output.dense", grown, hidden)
        yield from _norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", hidden)


def pooler(config: BertConfig) -> Iterator[Tensor]:
    """Yields the pooler's two tensors."""
    yield from _dense("bert/pooler", "bert.pooler.dense", config.hidden, config.hidden)


def mlm(config: BertConfig) -> Iterator[Tensor]:
    """Yields the MLM head's tensors; its decoder is the word embedding and has none of its own."""
    yield from _dense(
        "mlm/transform", "cls.predictions.transform.dense", config.hidden, config.hidden
    )
    yield from _norm("mlm/norm", "cls.predictions.transform.LayerNorm", config.hidden)
    yield Tensor(
        "mlm/bias", "cls.predictions.bias", "cls/predictions/output_bias", (config.vocab_size,)
    )


def nsp(config: BertConfig) -> Iterator[Tensor]:
    """Yields the next-sentence head's two tensors."""
    yield from _classifier(
        "nsp", "cls.seq_relationship", "cls/seq_relationship/output_", config.hidden, 2
    )


def classifier(config: BertConfig, outputs: int) -> Iterator[Tensor]:
    """Yields the two tensors of a task head with `outputs` outputs."""
    yield from _classifier("classifier", "classifier", "output_", config.hidden, outputs)


def _dense(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    tf1 = _tf1_name(theirs)
    yield Tensor(
        f"{ours}/kernel", f"{theirs}.weight", f"{tf1}/kernel", (inputs, outputs), hf_transposed=True
    )
    yield Tensor(f"{ours}/bias", f"{theirs}.bias", f"{tf1}/bias", (outputs,))


def _norm(ours: str, theirs: str, hidden: int) -> Iterator[Tensor]:
    tf1 = _tf1_name(theirs)
    yield Tensor(f"{ours}/scale", f"{theirs}.weight", f"{tf1}/gamma", (hidden,))
    yield Tensor(f"{ours}/bias", f"{theirs}.bias", f"{tf1}/beta", (hidden,))


def _classifier(ours: str, hf: str, tf1: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    yield Tensor(f"{ours}/kernel", f"{hf}.weight", f"{tf1}weights", (inputs, outputs), True, True)
    yield Tensor(f"{ours}/bias", f"{hf}.bias", f"{tf1}bias", (outputs,))


def _tf1_name(theirs: str) -> str:
    return theirs.replace("encoder.layer.", "encoder.layer_").replace(".", "/")


def nest(flat: dict[str, np.ndarray]) -> dict:
    """Returns the nested tree of a dict whose keys are paths joined by `/`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def flatten(tree: dict) -> dict:
    """Returns path -> leaf for a nested dict, in the order of its keys."""
    return traverse_util.flatten_dict(tree, sep="/")


def check(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, where: object
) -> None:
    """Raises WeightsError, naming the differences, unless both have the same tensors and shapes."""
    faults = []
    if missing := [name for name in wanted if name not in found]:
        faults.append(f"lacks {listed(missing)}")
    if extra := [name for name in found if name not in wanted]:
        faults.append(f"has unknown {listed(extra)}")
    if other := [name for name in wanted if name in found and tuple(found[name]) != wanted[name]]:
        faults.append(
            "has "
            + listed(
                [f"{name} of shape {tuple(found[name])}, not {wanted[name]}" for name in other]
            )
        )
    if faults:
        raise WeightsError(
            f"{where} {' and '.join(faults)}; "
            "config and weights must be of one BERT: take both from the same source"
        )


def check_finite(value: np.ndarray, name: str, *, where: object) -> None:
    """Raises WeightsError where a tensor holds NaN or infinity, which no output survives."""
    if not np.isfinite(value).all():
        raise WeightsError(
            f"{where} has NaN or infinity in {name}; use weights from before training diverged, or "
            "download the file again"
        )


def listed(names: list[str]) -> str:
    """Returns the first names joined by commas, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
