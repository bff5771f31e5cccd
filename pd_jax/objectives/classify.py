"""Supervised training of a task: softmax classification, regression, or independent labels."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pd_jax.errors import ConfigError
from pd_jax.models.flops import forward_flops, step_flops
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.losses import binary_cross_entropy, cross_entropy
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    Params,
    Sums,
    as_is,
    dropout_stream,
    dummy_inputs,
    tokens_of,
    weighted,
)


def hard_loss(
    logits: Float[Array, "*rows outputs"], label: Array, *, task: str
) -> Float[Array, "*rows"]:
    """Returns each row's loss against its label: nats, squared error, or the mean of the labels'
    binary losses.
    """
    logits = logits.astype(jnp.float32)
    if task == "classification":
        return cross_entropy(logits, label)[0]
    if task == "regression":
        return jnp.square(logits[..., 0] - label.astype(jnp.float32))
    return jnp.mean(binary_cross_entropy(logits, label.astype(jnp.float32)), axis=-1)


def hard_hits(logits: Float[Array, "*rows outputs"], label: Array, *, task: str) -> Array | None:
    """Returns which rows are predicted right (every label of them, for multi-label); None for
    regression.
    """
    if task == "classification":
        return logits.argmax(-1) == label
    if task == "multilabel":
        return jnp.all((logits > 0) == (label > 0.5), axis=-1)
    return None


def task_outputs(task: str | None, labels: tuple[str, ...]) -> int:
    """Returns how many outputs a task's head has."""
    if task is None:
        raise ConfigError(
            "the dataset has no task; build it with examples.task and labels to train on its labels"
        )
    return 1 if task == "regression" else len(labels)


def label_shape(task: str, outputs: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of a row's label."""
    if task == "multilabel":
        return jax.ShapeDtypeStruct((outputs,), jnp.float32)
    return jax.ShapeDtypeStruct((), jnp.float32 if task == "regression" else jnp.int32)


def make_classify(config: BertConfig, *, task: str, labels: tuple[str, ...]) -> Objective:
    """Returns the supervised objective of a labelled dataset's task."""
    model = TaskModel(config, task_outputs(task, labels))

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        if "label" not in batch:  # an evaluation set that is scored against a teacher only
            return {}
        logits = task_logits(model, params, batch, key)
        found = {"loss": weighted(hard_loss(logits, batch["label"], task=task), batch["weight"])}
        hits = hard_hits(logits, batch["label"], task=task)
        if hits is not None:
            found["accuracy"] = weighted(hits, batch["weight"])
        return found

    inputs = {"label": label_shape(task, model.outputs)}
    return task_objective(model, {"loss": 1.0}, sums, inputs)


def task_objective(
    model: TaskModel,
    terms: Mapping[str, float],
    sums: Callable[[Params, Batch, jax.Array | None], Sums],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
) -> Objective:
    """Returns an objective over a task model with the given loss."""

    def flops(rows: int, length: int) -> int:
        forward = forward_flops(model.config, rows=rows, length=length, outputs=model.outputs)
        return step_flops(forward)

    return Objective(
        config=model.config,
        terms=terms,
        init=lambda key: model.init(key, *dummy_inputs())["params"],
        prepare=as_is,
        sums=sums,
        flops=flops,
        inputs=inputs,
        predict=lambda params, batch: task_logits(model, params, batch, None),
    )


def task_logits(
    model: TaskModel, params: Params, batch: Batch, key: jax.Array | None
) -> Float[Array, "*rows outputs"]:
    """Returns the task model's logits of a batch, for every example that a row holds."""
    logits: Any = model.apply({"params": params}, *tokens_of(batch), rngs=dropout_stream(key))
    return logits
