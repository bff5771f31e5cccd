"""What a training stage will read, as far as its pipeline says, before anything is built."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import make_classify, task_outputs
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class Declared:
    """The vocabulary's size and the task of a training stage; None where nothing says so."""

    vocab_size: int | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()


def declared(pipeline: config_lib.Pipeline, stage: config_lib.TrainStage) -> Declared:
    """Returns what the stages that a training stage reads from say about its data."""
    records = _records(pipeline, stage)
    if records is None:
        return Declared()
    task, labels = _task(records)
    if isinstance(stage.objective, config_lib.Distill):
        task, labels = _teacher_task(pipeline, stage)
    return Declared(_vocab_size(pipeline, records.tokenizer), task, labels)


def make_declared_objective(
    stage: config_lib.TrainStage, shape: BertConfig, facts: Declared
) -> Objective:
    """Returns a stage's objective without its data; which tokens are special changes no shape."""
    kind = stage.objective
    if isinstance(kind, config_lib.MaskedLanguageModel):
        starts = np.ones(shape.vocab_size, bool) if kind.whole_word else None
        return make_mlm(kind, shape, Vocabulary(shape.vocab_size, 0, 1, 2, 3, starts))
    if facts.task is None:
        raise ConfigError(
            f"objective.kind={kind.kind!r} needs a task, and no stage that it reads from names "
            "one; give --task and --labels"
        )
    if isinstance(kind, config_lib.Distill):
        return make_distill(
            kind, shape, task=facts.task, labels=facts.labels, has_labels=kind.hard_weight > 0
        )
    return make_classify(shape, task=facts.task, labels=facts.labels)


def own_inputs(
    stage: config_lib.TrainStage, facts: Declared, rows: int
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


def _vocab_size(pipeline: config_lib.Pipeline, tokenizer: str) -> int | None:
    """Returns the entries of a tokenizer: of its stage, or the lines of a vocab.txt."""
    stage = _stage(pipeline, tokenizer)
    if isinstance(stage, config_lib.TokenizerStage):
        return stage.vocab_size
    path = epath.Path(tokenizer)
    path = path / "vocab.txt" if path.is_dir() else path
    if path.suffix == ".txt" and path.exists():
        return len(path.read_text().splitlines())
    return None
