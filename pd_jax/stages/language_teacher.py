"""A masked language model that labels a dataset: every row is masked once, by its number.

It reads the records' own tokens, over any mesh; the store's fields are those of `language_fields`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.logits.labelling import Teacher
from pd_jax.data.logits.store import LANGUAGE, LogitStore, language_fields
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, LogitsError
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.weights import hf
from pd_jax.objectives.lm_distill import language_answers
from pd_jax.objectives.mlm import Vocabulary, masked_once, predictions_per_row
from pd_jax.objectives.objective import StoredLanguage, tokens_of
from pd_jax.stages.classifier import check_pairs, check_positions
from pd_jax.stages.predict import on_mesh
from pd_jax.training import rng


def load_language_model(stage: config_lib.LabelStage, dataset: Dataset) -> hf.SavedModel:
    """Returns the teacher of a label stage with `language`.

    Raises:
      ConfigError: it has no MLM head, another vocabulary than the records, too few positions, or no
        segments for rows that are pairs.
    """
    tokenizer, model = load_tokenizer(stage.teacher), hf.load(stage.teacher)
    of_records = dataset.manifest.tokenizer
    same_size = model.config.vocab_size == of_records.vocab_size
    if tokenizer.fingerprint != of_records.fingerprint or not same_size:
        raise ConfigError(
            f"{stage.teacher} and {dataset.folder} have different vocabularies; build the records "
            "with the teacher's tokenizer"
        )
    check_positions(stage.teacher, model.config.positions, stage.lengths[-1])
    check_pairs(model, pairs=dataset.manifest.pairs, name=stage.teacher)
    params = with_head(model, "mlm", name=stage.teacher)
    return dataclasses.replace(model, params=params)


def with_head(saved: hf.SavedModel, head: str, *, name: str) -> dict[str, Any]:
    """Returns a model's encoder and one of its heads; raises ConfigError if it lacks that head."""
    if head not in saved.params:
        raise ConfigError(
            f"{name} has no {head} head; name a "
            + ("pre-trained model" if head == "mlm" else "fine-tuned model")
        )
    return {"bert": saved.params["bert"], head: saved.params[head]}


def describe_teacher(stage: config_lib.LabelStage, model: hf.SavedModel) -> Teacher:
    """Returns the teacher's description for the store's manifest."""
    stored = to_be_stored(stage, model.config.vocab_size)
    return Teacher(
        model.fingerprint,
        LANGUAGE,
        (),
        settings={"lengths": list(stage.lengths), "dtype": stage.dtype},
        more=language_fields(stored.places, stored.kept),
        about={**vars(_masking(stage)), "length": stored.length},
    )


def to_be_stored(stage: config_lib.LabelStage, vocab_size: int) -> StoredLanguage:
    """Returns what a label stage with `language` will store."""
    masking, length = _masking(stage), stage.lengths[-1]
    return StoredLanguage(
        masking.temperature,
        masking.mask_rate,
        masking.whole_word,
        length,
        places=predictions_per_row(length, masking.mask_rate),
        kept=min(masking.top_k, vocab_size),
    )


def stage_of(store: LogitStore) -> config_lib.LabelStage | None:
    """Returns the label stage that made a store of masked language model outputs, without teacher
    and records; None for other stores.

    Raises:
      LogitsError: no stage makes a store with such a manifest.
    """
    about = dict(store.manifest.about)
    if store.manifest.task != LANGUAGE:
        return None
    try:
        length = about.pop("length")
        return config_lib.LabelStage(
            teacher="", records="", lengths=(length,), language=config_lib.MaskedTokens(**about)
        )
    except (KeyError, TypeError, ValueError):
        raise _strange(store) from None


def stored_language(store: LogitStore) -> StoredLanguage | None:
    """Returns what a student needs to know about a store of masked language model outputs; None for
    other stores.

    Raises:
      LogitsError: the manifest contradicts itself.
    """
    stage, fields = stage_of(store), store.manifest.fields
    if stage is None:
        return None
    kept = next((field.shape[-1] for field in fields if field.name == "tokens"), 1)
    found = to_be_stored(stage, kept)
    if fields != language_fields(found.places, found.kept):
        raise _strange(store)
    return found


def make_language_predict(
    model: hf.SavedModel, dataset: Dataset, stage: config_lib.LabelStage, mesh: Mesh
) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
    """Returns placed batch with `row` -> the fields of its rows, on every device, no dropout."""
    masking, stored = _masking(stage), to_be_stored(stage, model.config.vocab_size)
    vocabulary = masking_vocabulary(dataset, whole_word=masking.whole_word)
    module = PretrainingModel(dataclasses.replace(model.config, dtype=stage.dtype))
    root = rng.root_key(masking.seed)

    def forward(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        keys = jax.vmap(lambda row: rng.stream(root, "language", row))(batch["row"])
        masked = masked_once(
            batch, keys, masking=masking, vocabulary=vocabulary, length=stored.length
        )
        positions = jnp.where(masked.weights > 0, masked.positions, 0)
        logits: Any = module.apply(
            {"params": params},
            positions,
            *tokens_of({**batch, "input_ids": masked.input_ids}),
            method="masked_logits",
        )
        return language_answers(logits, masked, kept=stored.kept, temperature=stored.temperature)

    return on_mesh(forward, model.params, mesh, dtype=stage.dtype)


def masking_vocabulary(dataset: Dataset, *, whole_word: bool) -> Vocabulary:
    """Returns what masking needs to know about a dataset's tokenizer."""
    held = dataset.manifest.tokenizer
    starts = load_tokenizer(dataset.folder / "tokenizer").word_starts if whole_word else None
    return Vocabulary(held.vocab_size, held.pad_id, held.cls_id, held.sep_id, held.mask_id, starts)


def _masking(stage: config_lib.LabelStage) -> config_lib.MaskedTokens:
    assert stage.language is not None, "only a stage with `language` has a language model"
    return stage.language


def _strange(store: LogitStore) -> LogitsError:
    return LogitsError(
        f"{store.folder} has a manifest that no masked language model's store has; label the "
        "dataset again"
    )
