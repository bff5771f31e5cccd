"""What a training stage will read, as far as its pipeline declares it, before anything is built."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records import manifest
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import TokenizerError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.objectives.objective import (
    OnlineTeacher,
    StoredLanguage,
    StoredStates,
    dummy_inputs,
)
from pd_jax.stages.classifier import declared_task
from pd_jax.stages.language_teacher import to_be_stored
from pd_jax.stages.objectives import Facts


def declared(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> Facts:
    """Returns what the stages that a training stage reads from declare about its data.

    What no stage or file declares stays unknown: `vocabulary` and `task` are None then.
    """
    where = first_of(stage.data.records)
    rows = rows_of(pipeline, where)
    if rows is None:
        return Facts(where, next_sentence=True)
    task, labels = learnt(pipeline, stage)
    vocabulary = _rows_vocabulary(pipeline, where)
    return Facts(
        where,
        vocabulary=vocabulary,
        teacher=_teacher(pipeline, stage, vocabulary, labels),
        task=task,
        labels=labels,
        labelled=rows.task is not None,
        next_sentence=rows.next_sentence,
    )


def vocabulary_of(size: int) -> Vocabulary:
    """Returns a vocabulary of `size` entries; which of them are special affects no shape."""
    return Vocabulary(size, 0, 1, 2, 3, np.ones(size, bool))


def first_of(reference: str | tuple[str, ...]) -> str:
    """Returns the only reference of a field, or the first of several."""
    return reference if isinstance(reference, str) else reference[0]


@dataclasses.dataclass(frozen=True)
class DeclaredRows:
    """What is declared about a dataset's rows."""

    task: str | None
    labels: tuple[str, ...]
    next_sentence: bool


def rows_of(pipeline: config_lib.Pipeline, reference: str) -> DeclaredRows | None:
    """Returns what the stage that builds a dataset declares, or an existing dataset's manifest."""
    stage = pipeline.stage_of(reference)
    if isinstance(stage, config_lib.RecordsStage):
        examples = stage.examples
        if isinstance(examples, config_lib.Corpus):
            return DeclaredRows(None, (), examples.next_sentence)
        return DeclaredRows(examples.task, examples.labels, False)
    if not _exists(reference, manifest.FILE):
        return None
    found = manifest.read(reference)
    return DeclaredRows(found.task, found.labels, found.holds("next_sentence_labels"))


def _rows_vocabulary(pipeline: config_lib.Pipeline, reference: str) -> Vocabulary | None:
    """Returns the vocabulary of a dataset that `rows_of` knows."""
    stage = pipeline.stage_of(reference)
    if isinstance(stage, config_lib.RecordsStage):
        return _vocabulary(pipeline, stage.tokenizer)
    return vocabulary_of(manifest.read(reference).tokenizer.vocab_size)


def tokenizer_of(
    pipeline: config_lib.Pipeline, reference: str, load: Callable[[str], Tokenizer]
) -> config_lib.TokenizerStage | Tokenizer | None:
    """Returns the tokenizer of a dataset, of a model or by itself, as `load` gives it, or the stage
    that will make it; None where neither is known.
    """
    stage = pipeline.stage_of(reference)
    if isinstance(stage, config_lib.TrainStage):
        return tokenizer_of(pipeline, first_of(stage.data.records), load)
    if isinstance(stage, config_lib.RecordsStage):
        return tokenizer_of(pipeline, stage.tokenizer, load)
    if isinstance(stage, config_lib.TokenizerStage):
        return stage
    if config_lib.referred(reference) or not epath.Path(reference).exists():
        return None
    own = f"{reference}/{manifest.TOKENIZER_FOLDER}"  # of a dataset
    try:
        return load(own if epath.Path(own).exists() else reference)
    except TokenizerError:  # of weights without one
        return None


def labels_of(pipeline: config_lib.Pipeline, reference: str) -> tuple[str, ...]:
    """Returns the labels of a dataset; empty where it has none or they are unknown."""
    rows = rows_of(pipeline, reference)
    return rows.labels if rows is not None else ()


def learnt(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task that a stage learns, from its teacher or its rows, and the task's labels."""
    kind = stage.objective
    if isinstance(kind, config_lib.Patient) and kind.teacher:
        return _teacher_task(pipeline, kind.teacher)
    if isinstance(kind, config_lib.Distill | config_lib.Patient):
        return store_task(pipeline, stage)
    rows = rows_of(pipeline, first_of(stage.data.records))
    return (rows.task, rows.labels) if rows is not None else (None, ())


def _exists(reference: str, file: str) -> bool:
    """Returns whether a reference is a path to a folder with this file."""
    return not config_lib.referred(reference) and (epath.Path(reference) / file).exists()


def _labelling_teacher(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> str:
    """Returns the teacher of the store that a stage reads; empty where no stage declares it."""
    store = pipeline.stage_of(first_of(stage.data.logits or ""))
    return store.teacher if isinstance(store, config_lib.LabelStage) else ""


def store_task(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task of the store that a stage reads, from its manifest or its teacher."""
    reference = first_of(stage.data.logits or "")
    if reference and _exists(reference, manifest.FILE):
        store = LogitStore.open(reference).manifest
        return store.task, store.labels
    labelling = pipeline.stage_of(reference)
    if not isinstance(labelling, config_lib.LabelStage) or labelling.language is not None:
        return None, ()
    task, labels = _teacher_task(pipeline, labelling.teacher)
    return task, labelling.labels or labels


def _teacher_task(
    pipeline: config_lib.Pipeline, reference: str
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task of a teacher, from the stage that trains it or from its folder."""
    teacher = pipeline.stage_of(reference)
    if (folder := model_folder(reference)) is not None:
        return declared_task(folder)
    if isinstance(teacher, config_lib.TrainStage):
        rows = rows_of(pipeline, first_of(teacher.data.records))
        if rows is not None:
            return rows.task, rows.labels
    return None, ()


def _teacher(
    pipeline: config_lib.Pipeline,
    stage: config_lib.TrainStage,
    vocabulary: Vocabulary | None,
    labels: tuple[str, ...],
) -> OnlineTeacher | StoredStates | StoredLanguage | None:
    """Returns the shapes of a teacher from a stage or a folder, or of its stored outputs."""
    kind = stage.objective
    if not isinstance(kind, config_lib.OnlineDistillation):
        return None
    store = pipeline.stage_of(first_of(stage.data.logits or ""))
    if isinstance(store, config_lib.LabelStage) and store.language is not None:
        return to_be_stored(store, vocabulary.size) if vocabulary is not None else None
    shape = _shape(pipeline, kind.teacher or _labelling_teacher(pipeline, stage), vocabulary)
    if shape is None or vocabulary is None:
        return None
    shape = dataclasses.replace(shape, dtype=stage.compute.dtype)
    if kind.teacher is None:
        held = store.states if isinstance(store, config_lib.LabelStage) else ()
        return StoredStates(shape.layers, shape.hidden, held) if held else None
    if isinstance(kind, config_lib.LanguageDistill):
        init = make_mlm(config_lib.MaskedLanguageModel(), shape, vocabulary).init
        return OnlineTeacher(shape, jax.eval_shape(init, jax.random.key(0)))
    outputs = max(1, len(labels))
    init = TaskModel(shape, outputs).init
    params = jax.eval_shape(init, jax.random.key(0), *dummy_inputs())["params"]
    return OnlineTeacher(shape, params, tuple(range(outputs)))


def _shape(
    pipeline: config_lib.Pipeline, reference: str, vocabulary: Vocabulary | None
) -> sizes.BertConfig | None:
    """Returns the shape of a BERT that a stage trains or a folder contains; None for others."""
    found = pipeline.stage_of(reference)
    if isinstance(found, config_lib.TrainStage) and vocabulary is not None:
        return sizes.bert_config(found.model, vocab_size=vocabulary.size)
    if (folder := model_folder(reference)) is None:
        return None
    return hf.load_config(folder) if hf.is_bert(folder) else None


def model_folder(reference: str) -> epath.Path | None:
    """Returns the folder of a model that a path names; None for stages, and if it has no model."""
    return epath.Path(reference) if reference and _exists(reference, hf.CONFIG_FILE) else None


def _vocabulary(pipeline: config_lib.Pipeline, tokenizer: str) -> Vocabulary | None:
    """Returns the vocabulary of a tokenizer's stage, or of an existing file or folder."""
    stage = pipeline.stage_of(tokenizer)
    if isinstance(stage, config_lib.TokenizerStage):
        return vocabulary_of(stage.vocab_size)
    if config_lib.referred(tokenizer) or not epath.Path(tokenizer).exists():
        return None
    return vocabulary_of(load_tokenizer(tokenizer).vocab_size)
