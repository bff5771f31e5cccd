"""Teachers that label a dataset's rows: the kinds of teacher, and how each computes its outputs.

A BERT with the records' own vocabulary reads their tokens, over any mesh; a masked language model
must have it (`language_teacher.py`). Any other model reads the texts with its own tokenizer: a BERT
in JAX, everything else, also a BERT with another activation than GELU, through torch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.feed.batches import evaluation_batches
from pd_jax.data.logits.labelling import Answers, Teacher
from pd_jax.data.logits.logit_shards import Field, Values
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.row_texts import RowTexts
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.models.weights import hf
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import row_share
from pd_jax.stages.classifier import (
    Read,
    check_pairs,
    check_positions,
    load_classifier,
    output_names,
)
from pd_jax.stages.language_teacher import (
    describe_teacher,
    load_language_model,
    make_language_predict,
)
from pd_jax.stages.predict import make_predict, make_predict_rows
from pd_jax.stages.torch_teacher import TorchTeacher, load_torch
from pd_jax.training.arrays import one_behind, whole

_ROWS_OF_TEXT = 1 << 14


class OpenedTeacher(NamedTuple):
    """A teacher's description for the store's manifest, and how its outputs are computed."""

    teacher: Teacher
    answers: Answers
    reads_records: bool = False
    """Whether it reads the records' own tokens, and not their texts."""


def reads_tokens(teacher: str, dataset: Dataset) -> bool:
    """Returns whether a teacher's vocabulary is the records' own, so that it needs no texts.

    Raises:
      WeightsError, TokenizerError: the folder has no config, or no tokenizer for its BERT.
    """
    own = dataset.manifest.tokenizer.fingerprint
    return hf.is_bert(teacher) and load_tokenizer(teacher).fingerprint == own


def open_teacher(
    stage: config_lib.LabelStage,
    dataset: Dataset,
    mesh: Mesh,
    *,
    told: Callable[[Read], None] = lambda read: None,
) -> OpenedTeacher:
    """Returns the teacher of a label stage, ready to label the dataset.

    `told` is called with what a teacher with a tokenizer of its own makes of some texts.

    Raises:
      ConfigError: `stage.labels`, `stage.states`, `stage.lengths`, `stage.language` or the rows do
        not fit the teacher.
      WeightsError: the folder's model cannot be read.
      SourceError: the teacher needs the rows' texts, and they cannot be found.
    """
    if stage.language is not None:
        language_model = load_language_model(stage, dataset)
        predict = make_language_predict(language_model, dataset, stage, mesh)
        return OpenedTeacher(
            describe_teacher(stage, language_model),
            _token_answers(predict, dataset, stage, mesh),
            reads_records=True,
        )
    if not hf.is_bert(stage.teacher):
        foreign = load_torch(stage.teacher, dtype=stage.dtype, length=stage.lengths[-1])
        layers, width = foreign.states() if stage.states else (0, 0)
        classifier = _described(stage, foreign, layers=layers, width=width)
        return OpenedTeacher(classifier, _torch_answers(foreign, dataset, stage, told))
    model, tokenizer = load_classifier(stage.teacher)
    check_positions(stage.teacher, model.config.positions, stage.lengths[-1])
    check_pairs(model, pairs=dataset.manifest.pairs, name=stage.teacher)
    classifier = _described(stage, model, layers=model.config.layers, width=model.config.hidden)
    if tokenizer.fingerprint == dataset.manifest.tokenizer.fingerprint:
        predict = make_predict(model, mesh, dtype=stage.dtype, states=stage.states)
        answers = _token_answers(predict, dataset, stage, mesh)
        return OpenedTeacher(classifier, answers, reads_records=True)
    # A model's fingerprint covers its weights, shape and labels, but not its tokenizer, which
    # decides how it reads the same texts.
    settings = {**classifier.settings, "tokenizer": tokenizer.fingerprint}
    classifier = dataclasses.replace(classifier, settings=settings)
    if stage.states:
        raise ConfigError(
            f"states of {stage.teacher} are stored only for records with its own vocabulary; "
            f"build {dataset.folder} with its tokenizer"
        )
    return OpenedTeacher(classifier, _text_answers(model, tokenizer, dataset, stage, told))


def _described(
    stage: config_lib.LabelStage, model: hf.SavedModel | TorchTeacher, *, layers: int, width: int
) -> Teacher:
    """Returns the teacher's description for the store's manifest."""
    if stage.states and max(stage.states) >= layers:
        raise ConfigError(
            f"states names layer {max(stage.states)}, but {stage.teacher} has {layers} layers; "
            f"name layers from 0 to {layers - 1}"
        )
    more = (Field("states", (len(stage.states), width)),) if stage.states else ()
    return Teacher(
        model.fingerprint,
        model.task or "",
        output_names(
            stage.teacher, stage.labels, model.labels if model.task != "regression" else ()
        ),
        settings={"lengths": list(stage.lengths), "dtype": stage.dtype},
        more=more,
        about={"state_layers": list(stage.states), "layers": layers} if stage.states else {},
    )


def _token_answers(
    predict: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    dataset: Dataset,
    stage: config_lib.LabelStage,
    mesh: Mesh,
) -> Answers:
    """Returns a function that labels rows in batches over the mesh, computing one batch ahead."""
    share, shares = row_share(mesh)

    def read(batch: dict[str, jax.Array], outputs: dict[str, Any]) -> tuple[np.ndarray, Values]:
        real = whole(batch["weight"]) > 0
        values = {name: np.asarray(array)[real] for name, array in outputs.items()}
        return whole(batch["row"]).astype(np.int64)[real], values

    def answers(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Values]]:
        batches = evaluation_batches(
            dataset,
            batch=stage.batch,
            lengths=stage.lengths,
            rows=rows,
            process_index=share,
            process_count=shares,
        )
        given = ({**batch, "row": batch["row"].astype(np.int32)} for batch in batches)
        placed = (sharding.put_batch(batch, mesh) for batch in given)
        for batch, outputs in one_behind((batch, predict(batch)) for batch in placed):
            yield read(batch, outputs)

    return answers


def _text_answers(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    dataset: Dataset,
    stage: config_lib.LabelStage,
    told: Callable[[Read], None],
) -> Answers:
    """Returns a function by which a BERT with another vocabulary labels the rows' texts."""
    texts = _texts(dataset, stage)
    predict = make_predict_rows(
        model,
        tokenizer,
        batch=stage.batch,
        max_length=stage.lengths[-1],
        dtype=stage.dtype,
    )

    def answers(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Values]]:
        for part in _parts(rows):
            first = 0
            for window in predict(texts.of(part)):
                told(window.read)
                yield part[first : first + len(window.rows)], {"logits": window.logits}
                first += len(window.rows)

    return answers


def _torch_answers(
    model: TorchTeacher,
    dataset: Dataset,
    stage: config_lib.LabelStage,
    told: Callable[[Read], None],
) -> Answers:
    """Returns a function by which any other model labels the rows' texts, through torch."""
    texts = _texts(dataset, stage)

    def answers(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Values]]:
        for part in _parts(rows):
            found = model.answers(
                texts.of(part),
                batch=stage.batch,
                length=stage.lengths[-1],
                states=stage.states,
                told=told,
            )
            for places, values in found:
                yield part[places], values

    return answers


def check_reads_texts(teacher: str) -> None:
    """Raises ConfigError where a teacher that reads texts would do so in several processes."""
    if jax.process_count() > 1:
        raise ConfigError(
            f"{teacher} reads the rows' texts, which only one process can do; run this stage with "
            "one process, for example with tools.label"
        )


def _texts(dataset: Dataset, stage: config_lib.LabelStage) -> RowTexts:
    check_reads_texts(stage.teacher)
    return RowTexts(dataset, stage.source)


def _parts(rows: np.ndarray) -> Sequence[np.ndarray]:
    return [rows[at : at + _ROWS_OF_TEXT] for at in range(0, len(rows), _ROWS_OF_TEXT)]
