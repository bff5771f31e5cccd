"""Distillation of a task on stored teacher logits (Turc et al. 2019, Algorithm 1, lines 2 to 5).

The paper's loss is the cross-entropy of the student against the teacher's softmax, at temperature 1
and without hard labels. Temperature (with Hinton et al.'s factor T squared) and a share of hard
labels are options. Whatever is minimised, the KL divergence at temperature 1 and the agreement with
the teacher are reported, so that runs compare.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import (
    hard_hits,
    hard_loss,
    label_shape,
    task_logits,
    task_objective,
    task_outputs,
)
from pd_jax.objectives.losses import binary_cross_entropy, kl_divergence, soft_cross_entropy
from pd_jax.objectives.objective import Batch, Objective, Params, Sums, weighted


def soft_loss(
    student: Array, teacher: Array, *, task: str, kind: str, temperature: float
) -> Float[Array, "*rows"]:
    """Returns each row's loss against the teacher's outputs."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if task == "regression" or kind == "mse":
        return jnp.mean(jnp.square(student - teacher), axis=-1)
    if task == "multilabel":
        target = jax.nn.sigmoid(teacher / temperature)
        return temperature**2 * jnp.mean(
            binary_cross_entropy(student / temperature, target), axis=-1
        )
    return soft_cross_entropy(student, teacher, temperature=temperature)


def agreement(student: Array, teacher: Array, *, task: str) -> Array | None:
    """Returns the rows on which both predict the same; None for regression."""
    if task == "classification":
        return student.argmax(-1) == teacher.argmax(-1)
    if task == "multilabel":
        return jnp.all((student > 0) == (teacher > 0), axis=-1)
    return None


def make_distill(
    objective: config_lib.Distill,
    config: BertConfig,
    *,
    task: str,
    labels: tuple[str, ...],
    has_labels: bool,
) -> Objective:
    """Returns the distillation objective for a teacher of `task`; raises where hard labels are
    asked for and absent.
    """
    check_hard_weight(objective.hard_weight, has_labels)
    model = TaskModel(config, task_outputs(task, labels))

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        return teacher_sums(
            task_logits(model, params, batch, key),
            batch,
            task=task,
            kind=objective.loss,
            temperature=objective.temperature,
            hard_weight=objective.hard_weight,
        )

    inputs = answer_shapes(task, model.outputs, hard_weight=objective.hard_weight)
    return task_objective(model, {"loss": 1.0}, sums, inputs)


def answer_shapes(
    task: str, outputs: int, *, hard_weight: float, stored: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and type of what a row has to learn from: its teacher's logits where they
    are `stored`, and its label where it has a weight.
    """
    shapes = {"label": label_shape(task, outputs)} if hard_weight > 0 else {}
    logits = jax.ShapeDtypeStruct((outputs,), jnp.float32)
    return {**shapes, "teacher_logits": logits} if stored else shapes


def check_hard_weight(hard_weight: float, has_labels: bool) -> None:
    """Raises ConfigError where hard labels are asked for and absent."""
    if hard_weight > 0 and not has_labels:
        raise ConfigError(
            f"objective.hard_weight={hard_weight} needs labels, but the transfer set has none; "
            "set it to 0"
        )


def teacher_sums(
    logits: Float[Array, "*rows outputs"],
    batch: Batch,
    *,
    task: str,
    kind: str,
    temperature: float,
    hard_weight: float,
) -> Sums:
    """Returns the sums of `loss`, against a batch's teacher and its labels, and of what else is
    reported: `kl`, `confidence`, `agreement`, `hard_loss` and `accuracy`.

    `confidence` is the mean of the student's largest probabilities, and `agreement` the share of
    rows on which it gives the teacher's label. Their difference says how much too sure the student
    is. Unlike a calibration error over bins, it can be added up over batches.
    """
    weight, found = batch["weight"], {}
    if "teacher_logits" in batch:
        teacher = batch["teacher_logits"]
        loss = soft_loss(logits, teacher, task=task, kind=kind, temperature=temperature)
        if hard_weight > 0 and "label" in batch:
            hard = hard_loss(logits, batch["label"], task=task)
            loss = (1 - hard_weight) * loss + hard_weight * hard
        found["loss"] = weighted(loss, weight)
        if task == "classification":
            found["kl"] = weighted(kl_divergence(logits, teacher), weight)
            found["confidence"] = weighted(jax.nn.softmax(logits).max(-1), weight)
        same = agreement(logits, teacher, task=task)
        if same is not None:
            found["agreement"] = weighted(same, weight)
    if "label" in batch:
        found["hard_loss"] = weighted(hard_loss(logits, batch["label"], task=task), weight)
        hits = hard_hits(logits, batch["label"], task=task)
        if hits is not None:
            found["accuracy"] = weighted(hits, weight)
    return found
