"""Masked language modelling (Devlin et al. 2018) with new masks at every step, and optional next-
sentence prediction.

With both it is the paper's MLM+ (Turc et al. 2019, Algorithm 1, line 1). Masks are drawn on the
device from the key alone, over the global batch: the host only feeds ids.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from pd_jax import config as config_lib
from pd_jax.models.flops import forward_flops, step_flops
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.losses import cross_entropy
from pd_jax.objectives.objective import (
    Batch,
    Objective,
    Params,
    Sums,
    dropout_stream,
    dummy_inputs,
    tokens_of,
    weighted,
)

_MASKED_SHARE = 0.8
_RANDOM_SHARE = 0.1
_UNROLLED = 16
"""Tokens in one turn of the loop over drawn words: one kernel each on an accelerator."""


class Vocabulary(NamedTuple):
    """What masking needs to know about a tokenizer."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    word_starts: np.ndarray | None
    """Bool [size], whether a piece begins a word; needed for whole-word masking only."""


class Masked(NamedTuple):
    """A corrupted batch and what is to be predicted in it."""

    input_ids: Int[Array, "batch seq"]
    positions: Int[Array, "batch predictions"]
    targets: Int[Array, "batch predictions"]
    weights: Float[Array, "batch predictions"]


def predictions_per_row(length: int, mask_rate: float) -> int:
    """Returns how many positions of a row of `length` are gathered: 20 at length 128 and rate 0.15,
    as BERT's.
    """
    return max(1, math.ceil(length * mask_rate))


def mask_tokens(
    input_ids: Int[Array, "batch seq"],
    input_mask: Int[Array, "batch seq"],
    key: jax.Array,
    *,
    vocabulary: Vocabulary,
    mask_rate: float,
    whole_word: bool,
) -> Masked:
    """Returns the batch with `mask_rate` of each row's tokens chosen, at least one, never [CLS],
    [SEP] or padding.

    Of the chosen, 80 % become [MASK], 10 % a uniformly drawn token, 10 % stay. With `whole_word`
    the pieces of a word are chosen together: words are drawn in turn, and one that is longer than
    what is left of the row's budget is passed over, as in google-research/bert. Where every word is
    longer than the budget, the first pieces of one are chosen.
    """
    batch, length = input_ids.shape
    width = predictions_per_row(length, mask_rate)
    choose_key, replace_key, token_key = jax.random.split(key, 3)
    eligible = (
        (input_mask > 0) & (input_ids != vocabulary.cls_id) & (input_ids != vocabulary.sep_id)
    )
    budget = jnp.clip(jnp.round(eligible.sum(-1) * mask_rate).astype(jnp.int32), 1, width)

    draw = jax.random.uniform(choose_key, (batch, length))
    if whole_word:
        starts = jnp.asarray(vocabulary.word_starts)[input_ids]
        order, chosen = _draw_words(draw, starts, eligible, budget)
    else:
        order = jnp.argsort(jnp.where(eligible, draw, 2.0), axis=-1, stable=True)
        chosen = jnp.arange(length) < jnp.minimum(budget, eligible.sum(-1))[:, None]

    positions, chosen = order[:, :width], chosen[:, :width]
    targets = jnp.take_along_axis(input_ids, positions, axis=-1)
    share = jax.random.uniform(replace_key, (batch, width))
    drawn = jax.random.randint(token_key, (batch, width), 0, vocabulary.size, input_ids.dtype)
    replacement = jnp.where(share < _MASKED_SHARE, vocabulary.mask_id, targets)
    replacement = jnp.where(
        (share >= _MASKED_SHARE) & (share < _MASKED_SHARE + _RANDOM_SHARE), drawn, replacement
    )
    replacement = jnp.where(chosen, replacement, targets)
    # Row by row: over a mesh, a scatter that names its rows would gather all of them everywhere.
    corrupted = jax.vmap(lambda row, at, new: row.at[at].set(new, unique_indices=True))(
        input_ids, positions, replacement
    )
    return Masked(corrupted, positions, targets, chosen.astype(jnp.float32))


def _draw_words(
    draw: Float[Array, "batch seq"],
    starts: Bool[Array, "batch seq"],
    eligible: Bool[Array, "batch seq"],
    budget: Int[Array, "batch"],
) -> tuple[Int[Array, "batch seq"], Bool[Array, "batch seq"]]:
    """Returns every row's positions, those of chosen words in front, and which of them are chosen.

    A word is drawn by the number at its first piece; the pieces behind [CLS] or [SEP] begin one.
    """
    places = jnp.arange(draw.shape[1])
    starts |= ~eligible | ~jnp.pad(eligible[:, :-1], ((0, 0), (1, 0)))
    first = jax.lax.cummax(jnp.where(starts, places, 0), axis=1)
    behind = jax.lax.cummin(jnp.where(starts, places, len(places)), axis=1, reverse=True)
    behind = jnp.pad(behind[:, 1:], ((0, 0), (0, 1)), constant_values=len(places))
    score = jnp.where(eligible, jnp.take_along_axis(draw, first, axis=1), 2.0)
    order = jnp.argsort(score, axis=1, stable=True)
    pieces = jnp.where(eligible, behind - first, len(places) + 1)  # more than any budget
    pieces, starts, eligible = (
        jnp.take_along_axis(values, order, axis=1) for values in (pieces, starts, eligible)
    )
    chosen = _fill(pieces, starts, budget)
    # Where no word fits, the one that was drawn first is longer than the budget.
    cut = (places < budget[:, None]) & eligible
    chosen = jnp.where(chosen.any(axis=1, keepdims=True), chosen, cut)
    in_front = jnp.argsort(~chosen, axis=1, stable=True)
    order, chosen = (jnp.take_along_axis(values, in_front, axis=1) for values in (order, chosen))
    return order, chosen


def _fill(
    pieces: Int[Array, "batch seq"], starts: Bool[Array, "batch seq"], budget: Int[Array, "batch"]
) -> Bool[Array, "batch seq"]:
    """Returns which tokens belong to a word of no more `pieces` than the words before it have left
    of the budget; the tokens of a word stand together.
    """

    def add(carry: tuple, token: tuple) -> tuple[tuple, jax.Array]:
        left, fits = carry
        pieces, starts = token
        fits = jnp.where(starts, pieces <= left, fits)
        return (left - jnp.where(starts & fits, pieces, 0), fits), fits

    carry = budget, jnp.zeros_like(budget, bool)
    return jax.lax.scan(add, carry, (pieces.T, starts.T), unroll=_UNROLLED)[1].T


def weights_at(
    positions: Int[Array, "batch predictions"], batch: Batch
) -> Float[Array, "batch #predictions"]:
    """Returns the weight of the example that each position lies in."""
    if "starts" not in batch:
        return batch["weight"][:, None]
    examples = jnp.take_along_axis(batch["input_mask"], positions, axis=1) - 1
    return jnp.take_along_axis(batch["weight"], jnp.maximum(examples, 0), axis=1)


def masked_batch(
    batch: Batch,
    key: jax.Array,
    *,
    masking: config_lib.MaskedLanguageModel | config_lib.LanguageDistill,
    vocabulary: Vocabulary,
) -> Batch:
    """Returns the batch with tokens masked in `input_ids`, and `positions`, `targets` and
    `prediction_weights` [rows, predictions]: what is to be predicted of it.

    In a batch with `row`, of a set that is scored, the masks of a row follow from its number alone,
    in whatever batch it is.
    """
    ids, mask = batch["input_ids"], batch["input_mask"]
    settings = {
        "vocabulary": vocabulary,
        "mask_rate": masking.mask_rate,
        "whole_word": masking.whole_word,
    }
    if "row" in batch:
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["row"])
        masked = _mask_rows(ids, mask, keys, **settings)
    else:
        masked = mask_tokens(ids, mask, key, **settings)
    return {
        **batch,
        "input_ids": masked.input_ids,
        "positions": masked.positions,
        "targets": masked.targets,
        "prediction_weights": masked.weights * weights_at(masked.positions, batch),
    }


def masked_once(
    batch: Batch,
    keys: Key[Array, " batch"],
    *,
    masking: config_lib.MaskedTokens,
    vocabulary: Vocabulary,
    length: int,
) -> Masked:
    """Returns each row masked by its own key alone, however the batch is padded up to `length`.

    Positions are [rows, places] of a row of `length`; weight 0 marks those that are not used.
    """
    width = batch["input_ids"].shape[1]
    beyond = (0, length - width)
    ids = jnp.pad(batch["input_ids"], ((0, 0), beyond), constant_values=vocabulary.pad_id)
    mask = jnp.pad(batch["input_mask"], ((0, 0), beyond))

    masked = _mask_rows(
        ids,
        mask,
        keys,
        vocabulary=vocabulary,
        mask_rate=masking.mask_rate,
        whole_word=masking.whole_word,
    )
    return masked._replace(input_ids=masked.input_ids[:, :width])


def _mask_rows(
    ids: Int[Array, "batch seq"],
    mask: Int[Array, "batch seq"],
    keys: Key[Array, " batch"],
    **settings: Any,
) -> Masked:
    """Returns what `mask_tokens` does of each row alone, by a key of its own.

    A longer padding changes nothing: what is drawn for a place follows from the key and the place.
    """

    def of_row(ids: Int[Array, " seq"], mask: Int[Array, " seq"], key: jax.Array) -> Masked:
        return Masked(*(array[0] for array in mask_tokens(ids[None], mask[None], key, **settings)))

    return jax.vmap(of_row)(ids, mask, keys)


def masked_as_stored(batch: Batch) -> Batch:
    """Returns the batch masked as it was for the teacher whose answers come with it."""
    ids, stored = batch["input_ids"], batch["teacher_positions"]
    used, positions = stored >= 0, jnp.maximum(stored, 0)
    at = jnp.where(used, stored, ids.shape[1])  # beyond the row, where nothing is put
    corrupted = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(
        ids, at, batch["teacher_replacements"]
    )
    return {
        **batch,
        "input_ids": corrupted,
        "positions": positions,
        "targets": jnp.take_along_axis(ids, positions, axis=-1),
        "prediction_weights": used * weights_at(positions, batch),
    }


def make_mlm(
    objective: config_lib.MaskedLanguageModel, config: BertConfig, vocabulary: Vocabulary
) -> Objective:
    """Returns the MLM objective, with NSP when the config asks for it; without, its model has
    neither a pooler nor a next-sentence head, which no loss would train.
    """
    model = PretrainingModel(config)

    def init(key: jax.Array) -> Params:
        places = jnp.zeros((1, 1), jnp.int32)
        if objective.next_sentence:
            return model.init(key, *dummy_inputs(), places)["params"]
        return model.init(key, places, *dummy_inputs(), method="masked_logits")["params"]

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        return masked_batch(batch, key, masking=objective, vocabulary=vocabulary)

    def sums(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        logits, nsp_logits = _outputs(model, params, batch, key, pairs=objective.next_sentence)
        loss, right = cross_entropy(logits, batch["targets"])
        found: dict[str, Any] = {
            "mlm_loss": weighted(loss, batch["prediction_weights"]),
            "mlm_accuracy": weighted(right, batch["prediction_weights"]),
        }
        if objective.next_sentence:
            loss, right = cross_entropy(nsp_logits, batch["next_sentence"])
            found["nsp_loss"] = weighted(loss, batch["weight"])
            found["nsp_accuracy"] = weighted(right, batch["weight"])
        return found

    def flops(rows: int, length: int) -> int:
        predictions = predictions_per_row(length, objective.mask_rate)
        forward = forward_flops(
            config,
            rows=rows,
            length=length,
            predictions=predictions,
            next_sentence=objective.next_sentence,
        )
        return step_flops(forward)

    terms, inputs = {"mlm_loss": 1.0}, {}
    if objective.next_sentence:
        terms["nsp_loss"] = 1.0
        inputs["next_sentence"] = jax.ShapeDtypeStruct((), jnp.int32)
    return Objective(config, terms, init, prepare, sums, flops, inputs)


def _outputs(
    model: PretrainingModel, params: Params, batch: Batch, key: jax.Array | None, *, pairs: bool
) -> Any:
    """Returns the logits at a batch's positions and, if asked, of its pairs of sentences."""
    variables, streams, places = {"params": params}, dropout_stream(key), batch["positions"]
    ids, segments, mask, starts = tokens_of(batch)
    if pairs:
        return model.apply(variables, ids, segments, mask, places, starts, rngs=streams)
    tokens = (ids, segments, mask, starts)
    return model.apply(variables, places, *tokens, rngs=streams, method="masked_logits"), None
