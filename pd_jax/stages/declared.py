"""What a training stage will read, as far as its pipeline declares it, before anything is built."""

import dataclasses
import itertools

import jax
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records import manifest
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError
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
from pd_jax.stages.language_teacher import to_be_stored
from pd_jax.stages.material import check_set, check_tasks
from pd_jax.stages.objectives import Facts
from pd_jax.stages.predict import declared_task


def declared(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> Facts:
    """Returns what the stages that a training stage reads from declare about its data.

    What no stage or file declares stays unknown: `vocabulary` and `task` are None then.
    """
    where = _first(stage.data.records)
    rows = _rows(pipeline, where)
    if rows is None:
        return Facts(where, next_sentence=True)
    task, labels = _learnt(pipeline, stage)
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


def check_labels(pipeline: config_lib.Pipeline, name: str) -> None:
    """Raises ConfigError where a stage learns from rows of several tasks, would be scored on a set
    of another, or learns from a teacher whose outputs have other names than the labels of its rows
    or of a set: now, rather than after everything was labelled.
    """
    stage = pipeline.stages[name]
    if not isinstance(stage, config_lib.TrainStage):
        return
    _check_sets(pipeline, name, stage)
    _check_best(pipeline, name, stage)
    if not isinstance(stage.objective, config_lib.Masked):
        _check_tasks(pipeline, name, stage)
    if not stage.data.logits:
        return
    own, (_, outputs) = _labels(pipeline, _first(stage.data.records)), _store_task(pipeline, stage)
    remedy = (
        "name the outputs, in the teacher's order, with labels=(...) in the label stage, or list "
        "these names in examples.labels"
    )
    if own and outputs and sorted(own) != sorted(outputs):
        raise ConfigError(
            f"stages.{name}: the rows of data.records have labels {', '.join(own)}, but their "
            f"teacher's outputs are called {', '.join(outputs)}; {remedy}"
        )
    learnt = own or outputs
    for of, reference in {**stage.evaluation.sets, **stage.evaluation.final}.items():
        scored = _labels(pipeline, reference)
        if learnt and scored and scored != learnt:
            if sorted(scored) == sorted(learnt):
                remedy = "list them in this order in examples.labels of the set"
            raise ConfigError(
                f"stages.{name}: evaluation set {of} has labels {', '.join(scored)}, but the "
                f"student learns {', '.join(learnt)}, in this order; {remedy}"
            )


def _check_sets(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    task, _ = _learnt(pipeline, stage)
    for of, reference in {**stage.evaluation.sets, **stage.evaluation.final}.items():
        if (rows := _rows(pipeline, reference)) is not None:
            check_set(
                f"stages.{name}: evaluation set {of}",
                stage.objective,
                task=task,
                of_set=rows.task,
                paired=rows.next_sentence,
            )


def _check_best(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    """Raises ConfigError where `best` names a score that its set will not have."""
    if stage.evaluation.best is None:
        return
    of, _, score = stage.evaluation.best.partition("/")
    possible = _scores(pipeline, stage, of)
    if score not in possible:
        raise ConfigError(
            f"stages.{name}.evaluation.best={stage.evaluation.best!r}, but objective.kind="
            f"{stage.objective.kind!r} is scored there on {', '.join(possible) or 'nothing'}; name "
            "another score or set"
        )


def _scores(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage, of: str
) -> tuple[str, ...]:
    """Returns the scores of which more is better that an evaluation set may have."""
    kind, rows = stage.objective, _rows(pipeline, stage.evaluation.sets[of])
    if isinstance(kind, config_lib.MaskedLanguageModel):
        return ("mlm_accuracy", "nsp_accuracy") if kind.next_sentence else ("mlm_accuracy",)
    taught = of in stage.evaluation.logits or (
        isinstance(kind, config_lib.OnlineDistillation) and kind.teacher is not None
    )
    if isinstance(kind, config_lib.LanguageDistill):
        return ("mlm_accuracy", "agreement") if taught else ("mlm_accuracy",)
    task, labels = _learnt(pipeline, stage)
    binary = ("f1", "matthews") if len(labels) in (0, 2) else ()
    of_task = {
        "classification": ("accuracy", *binary),
        "multilabel": ("accuracy", "label_accuracy"),
        "regression": ("pearson", "spearman"),
    }
    known = of_task.get(task or "", tuple(dict.fromkeys(itertools.chain(*of_task.values()))))
    unlabelled = rows is not None and rows.task is None
    compared = ("agreement",) if taught and task != "regression" else ()
    return compared if unlabelled else (*known, *compared)


def _check_tasks(pipeline: config_lib.Pipeline, name: str, stage: config_lib.TrainStage) -> None:
    tasks = [("the teacher of data.logits", _store_task(pipeline, stage)[0])]
    for reference in config_lib.several(stage.data.records):
        if (rows := _rows(pipeline, reference)) is not None:
            tasks.append((reference, rows.task))
    check_tasks(f"stages.{name}.data.records", tasks)


def vocabulary_of(size: int) -> Vocabulary:
    """Returns a vocabulary of `size` entries; which of them are special affects no shape."""
    return Vocabulary(size, 0, 1, 2, 3, np.ones(size, bool))


def _first(reference: str | tuple[str, ...]) -> str:
    return reference if isinstance(reference, str) else reference[0]


def _stage(pipeline: config_lib.Pipeline, reference: str) -> object:
    """Returns the stage that `@name` or `@name/file` names, or None for a path."""
    name = reference.removeprefix("@").split("/")[0]
    return pipeline.stages.get(name) if reference.startswith("@") else None


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is declared about a dataset's rows."""

    task: str | None
    labels: tuple[str, ...]
    next_sentence: bool


def _rows(pipeline: config_lib.Pipeline, reference: str) -> _Rows | None:
    """Returns what the stage that builds a dataset declares, or an existing dataset's manifest."""
    stage = _stage(pipeline, reference)
    if isinstance(stage, config_lib.RecordsStage):
        examples = stage.examples
        if isinstance(examples, config_lib.Corpus):
            return _Rows(None, (), examples.next_sentence)
        return _Rows(examples.task, examples.labels, False)
    if not _exists(reference, manifest.FILE):
        return None
    found = manifest.read(reference)
    return _Rows(found.task, found.labels, found.holds("next_sentence_labels"))


def _rows_vocabulary(pipeline: config_lib.Pipeline, reference: str) -> Vocabulary | None:
    """Returns the vocabulary of a dataset that `_rows` knows."""
    stage = _stage(pipeline, reference)
    if isinstance(stage, config_lib.RecordsStage):
        return _vocabulary(pipeline, stage.tokenizer)
    return vocabulary_of(manifest.read(reference).tokenizer.vocab_size)


def _labels(pipeline: config_lib.Pipeline, reference: str) -> tuple[str, ...]:
    """Returns the labels of a dataset; empty where it has none or they are unknown."""
    rows = _rows(pipeline, reference)
    return rows.labels if rows is not None else ()


def _learnt(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task that a stage learns, from its teacher or its rows, and the task's labels."""
    kind = stage.objective
    if isinstance(kind, config_lib.Patient) and kind.teacher:
        return _teacher_task(pipeline, kind.teacher)
    if isinstance(kind, config_lib.Distill | config_lib.Patient):
        return _store_task(pipeline, stage)
    rows = _rows(pipeline, _first(stage.data.records))
    return (rows.task, rows.labels) if rows is not None else (None, ())


def _exists(reference: str, file: str) -> bool:
    """Returns whether a reference is a path to a folder with this file."""
    return not reference.startswith("@") and (epath.Path(reference) / file).exists()


def _labelling_teacher(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> str:
    """Returns the teacher of the store that a stage reads; empty where no stage declares it."""
    store = _stage(pipeline, _first(stage.data.logits or ""))
    return store.teacher if isinstance(store, config_lib.LabelStage) else ""


def _store_task(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task of the store that a stage reads, from its manifest or its teacher."""
    reference = _first(stage.data.logits or "")
    if reference and _exists(reference, manifest.FILE):
        store = LogitStore.open(reference).manifest
        return store.task, store.labels
    labelling = _stage(pipeline, reference)
    if not isinstance(labelling, config_lib.LabelStage) or labelling.language is not None:
        return None, ()
    task, labels = _teacher_task(pipeline, labelling.teacher)
    return task, labelling.labels or labels


def _teacher_task(
    pipeline: config_lib.Pipeline, reference: str
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task of a teacher, from the stage that trains it or from its folder."""
    teacher = _stage(pipeline, reference)
    if (folder := _folder(reference)) is not None:
        return declared_task(folder)
    if isinstance(teacher, config_lib.TrainStage):
        rows = _rows(pipeline, _first(teacher.data.records))
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
    store = _stage(pipeline, _first(stage.data.logits or ""))
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
        params = jax.eval_shape(init, jax.random.key(0))
        return OnlineTeacher(shape, {name: params[name] for name in ("bert", "mlm")})
    outputs = max(1, len(labels))
    init = TaskModel(shape, outputs).init
    params = jax.eval_shape(init, jax.random.key(0), *dummy_inputs())["params"]
    return OnlineTeacher(shape, params, tuple(range(outputs)))


def _shape(
    pipeline: config_lib.Pipeline, reference: str, vocabulary: Vocabulary | None
) -> sizes.BertConfig | None:
    """Returns the shape of a BERT that a stage trains or a folder contains; None for others."""
    found = _stage(pipeline, reference)
    if isinstance(found, config_lib.TrainStage) and vocabulary is not None:
        return sizes.bert_config(found.model, vocab_size=vocabulary.size)
    if (folder := _folder(reference)) is None:
        return None
    return hf.load_config(folder) if hf.is_bert(folder) else None


def _folder(reference: str) -> epath.Path | None:
    """Returns the folder of a model that a path names; None for stages, and if it has no model."""
    exists = reference and _exists(reference, hf.CONFIG_FILE)
    return epath.Path(reference) if exists else None


def _vocabulary(pipeline: config_lib.Pipeline, tokenizer: str) -> Vocabulary | None:
    """Returns the vocabulary of a tokenizer's stage, or of an existing file or folder."""
    stage = _stage(pipeline, tokenizer)
    if isinstance(stage, config_lib.TokenizerStage):
        return vocabulary_of(stage.vocab_size)
    if tokenizer.startswith("@") or not epath.Path(tokenizer).exists():
        return None
    return vocabulary_of(load_tokenizer(tokenizer).vocab_size)
