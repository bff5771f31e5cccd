"""What a training stage will read, as far as its pipeline says, before anything is built."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.objectives.classify import task_outputs
from pd_jax.objectives.mlm import Vocabulary
from pd_jax.stages.objectives import Facts


def declared(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> Facts:
    """Returns what the stages that a training stage reads from say about its data.

    What no stage or file says is left open: `vocabulary` and `task` are None then.
    """
    where = _first(stage.data.records)
    records = _records(pipeline, stage)
    if records is None:
        return Facts(where, next_sentence=True)
    task, labels = _task(records)
    labelled = task is not None
    if isinstance(stage.objective, config_lib.Distill):
        task, labels = _teacher_task(pipeline, stage)
    rows = records.examples
    return Facts(
        where,
        vocabulary=_vocabulary(pipeline, records.tokenizer),
        task=task,
        labels=labels,
        labelled=labelled,
        next_sentence=isinstance(rows, config_lib.Corpus) and rows.next_sentence,
    )


def vocabulary_of(size: int) -> Vocabulary:
    """Returns a vocabulary of so many entries; which of them are special changes no shape."""
    return Vocabulary(size, 0, 1, 2, 3, np.ones(size, bool))


def own_inputs(
    stage: config_lib.TrainStage, facts: Facts, rows: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes that a stage's objective wants in a batch besides the tokens."""
    kind = stage.objective
    if isinstance(kind, config_lib.MaskedLanguageModel):
        pairs = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return {"next_sentence": pairs} if kind.next_sentence else {}
    outputs = task_outputs(facts.task or "", facts.labels)
    label = {
        "classification": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "regression": jax.ShapeDtypeStruct((rows,), jnp.float32),
        "multilabel": jax.ShapeDtypeStruct((rows, outputs), jnp.float32),
    }[facts.task or ""]
    if not isinstance(kind, config_lib.Distill):
        return {"label": label}
    logits = {"teacher_logits": jax.ShapeDtypeStruct((rows, outputs), jnp.float32)}
    return logits | ({"label": label} if kind.hard_weight > 0 else {})


def _first(reference: str | tuple[str, ...]) -> str:
    return reference if isinstance(reference, str) else reference[0]


def _stage(pipeline: config_lib.Pipeline, reference: str) -> object:
    """Returns the stage that `@name` or `@name/file` names, or None for a path."""
    name = reference.removeprefix("@").split("/")[0]
    return pipeline.stages.get(name) if reference.startswith("@") else None


def _records(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> config_lib.RecordsStage | None:
    found = _stage(pipeline, _first(stage.data.records))
    return found if isinstance(found, config_lib.RecordsStage) else None


def _task(records: config_lib.RecordsStage) -> tuple[str | None, tuple[str, ...]]:
    rows = records.examples
    return (rows.task, rows.labels) if isinstance(rows, config_lib.Rows) else (None, ())


def _teacher_task(
    pipeline: config_lib.Pipeline, stage: config_lib.TrainStage
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the task of the teacher whose logits a stage learns from."""
    store = _stage(pipeline, _first(stage.data.logits or ""))
    if isinstance(store, config_lib.LabelStage):
        teacher = _stage(pipeline, store.teacher)
        if isinstance(teacher, config_lib.TrainStage):
            records = _records(pipeline, teacher)
            if records is not None:
                return _task(records)
    return None, ()


def _vocabulary(pipeline: config_lib.Pipeline, tokenizer: str) -> Vocabulary | None:
    """Returns the vocabulary of a tokenizer's stage, or of the lines of a vocab.txt."""
    stage = _stage(pipeline, tokenizer)
    if isinstance(stage, config_lib.TokenizerStage):
        return vocabulary_of(stage.vocab_size)
    path = epath.Path(tokenizer)
    path = path / "vocab.txt" if path.is_dir() else path
    if path.suffix == ".txt" and path.exists():
        return vocabulary_of(len(path.read_text().splitlines()))
    return None
