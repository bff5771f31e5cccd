"""Distillation of a masked language model (Sanh et al. 2019), online or from a logit store.

The triple loss is 5 L_ce + 2 L_mlm + 1 L_cos: T^2 KL(teacher || student) over the vocabulary at
T = 2, masked language modelling, and one minus the cosine of both models' last states, over all
tokens except padding. L_ce may be limited to the masked positions, which costs a sixth.

A store (`logits/store.py`, `language_fields`) has the teacher's likeliest tokens at masked places
and the sum of all others; L_ce then takes the others for one token, and is exact where the store
has the whole vocabulary. Its masks are static: a row is masked in every epoch as it was once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pd_jax import config as config_lib
from pd_jax.data.logits.store import language_fields
from pd_jax.errors import ConfigError
from pd_jax.models.flops import forward_flops, step_flops
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.losses import cross_entropy, kl_divergence, top_k_divergence
from pd_jax.objectives.mlm import (
    Masked,
    Vocabulary,
    make_mlm,
    masked_as_stored,
    masked_batch,
    predictions_per_row,
    weights_at,
)
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    OnlineTeacher,
    Params,
    StoredLanguage,
    Sums,
    dropout_stream,
    tokens_of,
    weighted,
)

_TINY = 1e-8


def cosine_rows(
    student: Float[Array, "*rows hidden"], teacher: Float[Array, "*rows hidden"]
) -> Float[Array, "*rows"]:
    """Returns one minus the cosine of each pair of states."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    lengths = [
        jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(states), axis=-1), _TINY**2))
        for states in (student, teacher)
    ]
    return 1.0 - jnp.sum(student * teacher, axis=-1) / (lengths[0] * lengths[1])


def make_lm_distill(
    objective: config_lib.LanguageDistill,
    config: BertConfig,
    vocabulary: Vocabulary,
    teacher: OnlineTeacher | StoredLanguage,
) -> Objective:
    """Returns the triple loss over a teacher that reads, or has read, the same masked tokens.

    Rows without a stored teacher's answers are masked here, and are scored on MLM only.

    Raises:
      ConfigError: the teacher has another vocabulary, or states of another width to compare; or it
        is a store that was made for something else.
    """
    if isinstance(teacher, OnlineTeacher):
        _check_teacher(objective, config, teacher)
    else:
        _check_store(objective, teacher)
    model = PretrainingModel(config)

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        if "teacher_positions" in batch:
            masked = masked_as_stored(batch)
        else:
            masked = masked_batch(batch, key, masking=objective, vocabulary=vocabulary)
        if objective.positions == "all":
            return at_every_token(batch, masked)
        return {**masked, "soft_weights": masked["prediction_weights"]}

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        logits, sequence = _outputs(model, params, batch, key, states="teacher_sequence" in batch)
        found = _masked_sums(logits, batch)
        if "teacher_logits" in batch:
            found |= _soft_sums(logits, batch, temperature=objective.temperature)
        if "teacher_sequence" in batch:
            apart = cosine_rows(sequence, batch["teacher_sequence"])
            found["cosine_loss"] = weighted(apart, _token_weights(batch))
        return found

    init = make_mlm(config_lib.MaskedLanguageModel(), config, vocabulary).init
    flops = _make_flops(objective, config)
    terms = {"soft_loss": objective.soft_weight, "mlm_loss": objective.mlm_weight}
    if isinstance(teacher, StoredLanguage):
        return Objective(config, terms, init, prepare, sums, flops, _answer_shapes(teacher))
    states = objective.cosine_weight > 0
    if states:
        terms["cosine_loss"] = objective.cosine_weight
    made = Objective(config, terms, init, prepare, sums, flops)
    return made.taught(teacher.params, _make_teach(teacher, states=states))


def _make_flops(
    objective: config_lib.LanguageDistill, config: BertConfig
) -> Callable[[int, int], int]:
    """Returns (rows, length) -> operations of a step: of the head at every place that it reads."""

    def flops(rows: int, length: int) -> int:
        masked = predictions_per_row(length, objective.mask_rate)
        predictions = length if objective.positions == "all" else masked
        whole = objective.cosine_weight > 0
        forward = forward_flops(
            config, rows=rows, length=length, predictions=predictions, whole=whole
        )
        return step_flops(forward)

    return flops


def _answer_shapes(stored: StoredLanguage) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and type of a row's stored answers, as they come with a batch."""
    return {
        f"teacher_{field.name}": jax.ShapeDtypeStruct(field.shape, field.dtype)
        for field in language_fields(stored.places, stored.kept)
    }


def at_every_token(batch: Batch, masked: Batch) -> Batch:
    """Returns the masked batch with every place of a row among `positions`, in order.

    `prediction_weights` are 0 but for the masked places; `soft_weights` are those of every token.
    """
    everywhere = _everywhere(batch)
    spread = jax.vmap(lambda at, weight: jnp.zeros(everywhere.shape[1]).at[at].set(weight))
    return {
        **masked,
        "positions": everywhere,
        "targets": batch["input_ids"],
        "prediction_weights": spread(masked["positions"], masked["prediction_weights"]),
        "soft_weights": _token_weights(batch),
    }


def _masked_sums(logits: Float[Array, "batch predictions vocab"], batch: Batch) -> Sums:
    """Returns the loss and the accuracy at masked tokens."""
    loss, right = cross_entropy(logits, batch["targets"])
    hidden = batch["prediction_weights"]
    return {"mlm_loss": weighted(loss, hidden), "mlm_accuracy": weighted(right, hidden)}


def _soft_sums(
    logits: Float[Array, "batch predictions vocab"], batch: Batch, *, temperature: float
) -> Sums:
    """Returns the loss against the teacher, and the agreement with it at temperature 1."""
    goal, weight = batch["teacher_logits"], batch["soft_weights"]
    if "teacher_tokens" in batch:
        tokens, normalisers = batch["teacher_tokens"], batch["teacher_normalisers"]
        apart, kl = (
            top_k_divergence(logits / scale, tokens, goal / scale, normalisers[..., at])
            for at, scale in enumerate((temperature, 1.0))
        )
        likeliest = tokens[..., 0]
    else:
        apart, kl = (kl_divergence(logits / scale, goal / scale) for scale in (temperature, 1.0))
        likeliest = goal.argmax(-1)
    return {
        "soft_loss": weighted(temperature**2 * apart, weight),
        "kl": weighted(kl, weight),
        "agreement": weighted(logits.argmax(-1) == likeliest, weight),
    }


def language_answers(
    logits: Float[Array, "batch places vocab"], masked: Masked, *, kept: int, temperature: float
) -> dict[str, Array]:
    """Returns the fields that a store keeps of a teacher's logits at masked places."""
    used = masked.weights > 0
    largest, tokens = jax.lax.top_k(logits, kept)
    replacements = jnp.take_along_axis(masked.input_ids, masked.positions, axis=-1)
    sums = [jax.nn.logsumexp(logits / scale, axis=-1) for scale in (temperature, 1.0)]
    return {
        "positions": jnp.where(used, masked.positions, -1),
        "replacements": jnp.where(used, replacements, 0),
        "tokens": tokens,
        "logits": largest,
        "normalisers": jnp.stack(sums, axis=-1),
    }


def _make_teach(teacher: OnlineTeacher, *, states: bool):
    """Returns (teacher's parameters, batch) -> the batch with its logits and, if asked, states."""
    model = PretrainingModel(teacher.config)

    def teach(params: Params, batch: Batch) -> Batch:
        logits, sequence = _outputs(model, params, batch, None, states=states)
        taught = {**batch, "teacher_logits": logits}
        return {**taught, "teacher_sequence": sequence} if states else taught

    return teach


def _check_teacher(
    objective: config_lib.LanguageDistill, config: BertConfig, teacher: OnlineTeacher
) -> None:
    if teacher.config.vocab_size != config.vocab_size:
        raise ConfigError(
            f"the teacher's vocabulary has {teacher.config.vocab_size} entries, but the records' "
            f"has {config.vocab_size}; build the records with the teacher's tokenizer"
        )
    if objective.cosine_weight > 0 and teacher.hidden != config.hidden:
        raise ConfigError(
            f"the student has {config.hidden} hidden units, but the teacher has {teacher.hidden}; "
            "give model.size the teacher's width, or set objective.cosine_weight=0"
        )


def _check_store(objective: config_lib.LanguageDistill, stored: StoredLanguage) -> None:
    wanted = {"positions": "masked", "cosine_weight": 0.0}
    wanted |= {name: getattr(stored, name) for name in ("temperature", "mask_rate", "whole_word")}
    for name, value in wanted.items():
        if getattr(objective, name) != value:
            raise ConfigError(
                f"objective.{name}={getattr(objective, name)!r}, but the logit store was made for "
                f"{value!r}; use that value, label again, or name a model in objective.teacher"
            )


def _outputs(
    model: PretrainingModel, params: Params, batch: Batch, key: jax.Array | None, *, states: bool
) -> Any:
    """Returns the logits at a batch's positions and, if asked, the last state of every token."""
    outputs: Any = model.apply(
        {"params": params},
        batch["positions"],
        *tokens_of(batch),
        rngs=dropout_stream(key),
        method="logits_and_sequence" if states else "masked_logits",
    )
    return outputs if states else (outputs, None)


def _everywhere(batch: Batch) -> Int[Array, "batch seq"]:
    ids = batch["input_ids"]
    return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)


def _token_weights(batch: Batch) -> Float[Array, "batch seq"]:
    """Returns the weight of each token: its example's, and 0 for padding."""
    return (batch["input_mask"] > 0) * weights_at(_everywhere(batch), batch)
