"""Patient distillation (Sun et al. 2019): the student's [CLS] states follow the teacher's.

The loss is (1 - a) CE + a T^2 KL + b PT, where PT compares the first token's state after each of
the student's layers but the last with that after a layer of the teacher, both of length one. `a` is
`1 - hard_weight`, `b` is `patience`. As in the authors' code PT is a mean over layers and hidden
units, the scale on which their b of 10 to 1000 stands; the paper's sum is so many times larger.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.bert import first_states
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import task_objective, task_outputs
from pd_jax.objectives.distill import answer_shapes, check_hard_weight, teacher_sums
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    OnlineTeacher,
    Params,
    StoredStates,
    Sums,
    dropout_stream,
    tokens_of,
    weighted,
)

_TINY = 1e-12


def choose_teacher_layers(choice: str | Sequence[int], deep: int, shallow: int) -> tuple[int, ...]:
    """Returns the teacher's layer (from 0) for each of the student's layers but the last.

    `skip` takes the last of every `deep / shallow` layers, `last` those just below the teacher's
    last: for 12 and 6 layers 1, 3, 5, 7, 9 and 6, 7, 8, 9, 10 (Sun et al. 2019, section 3.2).

    Raises:
      ConfigError: the counts do not fit the choice.
    """
    if not isinstance(choice, str):
        if len(choice) != shallow - 1 or not all(0 <= layer < deep for layer in choice):
            raise ConfigError(
                f"objective.layers={tuple(choice)} must name {shallow - 1} layers of the teacher, "
                f"each from 0 to {deep - 1}: one for each of the student's except the last"
            )
        return tuple(choice)
    if shallow < 2 or deep < shallow:
        raise ConfigError(
            f"a student of {shallow} layers cannot follow a teacher of {deep}; it needs at least "
            "2, and no more than the teacher"
        )
    if choice == "last":
        return tuple(range(deep - shallow, deep - 1))
    if deep % shallow:
        raise ConfigError(
            f"objective.layers='skip' cannot spread {shallow} layers over {deep}; use 'last' or "
            "name the teacher's layers"
        )
    step = deep // shallow
    return tuple(step * (layer + 1) - 1 for layer in range(shallow - 1))


def patience_rows(
    student: Float[Array, "*rows layers hidden"],
    teacher: Float[Array, "*rows layers hidden"],
    *,
    normalise: bool,
) -> Float[Array, "*rows"]:
    """Returns each row's mean squared difference of states, both scaled to length one if asked."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if normalise:
        student, teacher = _of_length_one(student), _of_length_one(teacher)
    return jnp.mean(jnp.square(student - teacher), axis=(-2, -1))


def _of_length_one(states: Float[Array, "*rows hidden"]) -> Float[Array, "*rows hidden"]:
    # The root of a sum of squares has no gradient at 0, where a row without an answer stands.
    squares = jnp.sum(jnp.square(states), axis=-1, keepdims=True)
    return states * jax.lax.rsqrt(jnp.maximum(squares, _TINY))


def make_patient(
    objective: config_lib.Patient,
    config: BertConfig,
    *,
    task: str,
    labels: tuple[str, ...],
    has_labels: bool,
    teacher: OnlineTeacher | StoredStates,
) -> Objective:
    """Returns the objective; logits and states come from an online teacher or with the batch.

    Raises:
      ConfigError: hard labels are asked for and absent, or the teacher's layers, width or stored
        states do not fit.
    """
    check_hard_weight(objective.hard_weight, has_labels)
    _check_width(config, teacher)
    layers = choose_teacher_layers(objective.layers, teacher.layers, config.layers)
    model = TaskModel(config, task_outputs(task, labels))
    chosen = teacher.places(layers) if isinstance(teacher, StoredStates) else None

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        logits, encoded = _outputs(model, params, batch, key)
        found = teacher_sums(
            logits,
            batch,
            task=task,
            kind="cross_entropy",
            temperature=objective.temperature,
            hard_weight=objective.hard_weight,
        )
        if "loss" in found:
            found["distill_loss"] = found.pop("loss")
        if "teacher_states" in batch:
            states = batch["teacher_states"]
            states = states if chosen is None else jnp.take(states, jnp.array(chosen), axis=-2)
            own = first_states(encoded, range(config.layers - 1), batch.get("starts"))
            rows = patience_rows(own, states, normalise=objective.normalise)
            found["patience"] = weighted(rows, batch["weight"])
        return found

    terms = {"distill_loss": 1.0, "patience": objective.patience}
    stored = isinstance(teacher, StoredStates)
    inputs = answer_shapes(task, model.outputs, hard_weight=objective.hard_weight, stored=stored)
    if stored:
        inputs["teacher_states"] = jax.ShapeDtypeStruct(teacher.shape, jnp.float32)
    made = task_objective(model, terms, sums, inputs)
    if stored:
        return made
    return made.taught(teacher.params, _make_teach(teacher, layers, model.outputs))


def _check_width(config: BertConfig, teacher: OnlineTeacher | StoredStates) -> None:
    if teacher.hidden != config.hidden:
        raise ConfigError(
            f"the student has {config.hidden} hidden units, but the teacher has {teacher.hidden}, "
            "and patience compares their states; give model.size the teacher's width"
        )


def _make_teach(teacher: OnlineTeacher, layers: Sequence[int], outputs: int):
    """Returns (teacher's parameters, batch) -> the batch with its logits and states."""
    model = TaskModel(teacher.config, outputs)

    def teach(params: Params, batch: Batch) -> Batch:
        logits, encoded = _outputs(model, params, batch, None)
        return {
            "teacher_logits": jnp.take(logits, jnp.array(teacher.columns), axis=-1),
            **batch,
            "teacher_states": first_states(encoded, layers, batch.get("starts")),
        }

    return teach


def _outputs(model: TaskModel, params: Params, batch: Batch, key: jax.Array | None) -> Any:
    """Returns the logits and the encoded batch."""
    streams = dropout_stream(key)
    return model.apply(
        {"params": params}, *tokens_of(batch), rngs=streams, method="logits_and_encoded"
    )
