"""The objective of a training stage, made from facts about the data that it reads.

The facts come from open datasets (`material.py`), or from what a pipeline declares before anything
is built (`declared.py`); the objective is the same.
"""

import dataclasses

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import make_classify
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.lm_distill import make_lm_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.objectives.objective import Objective, OnlineTeacher, StoredLanguage, StoredStates
from pd_jax.objectives.patient import make_patient


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an objective needs to know about a stage's data."""

    where: str
    """The data's name in messages."""
    vocabulary: Vocabulary | None = None
    task: str | None = None
    """The task of the rows' labels, or of the teacher whose logits come with the rows."""
    labels: tuple[str, ...] = ()
    labelled: bool = False
    """Whether every row has a label."""
    next_sentence: bool = False
    """Whether every row is a pair of passages that follow each other or not."""
    teacher: OnlineTeacher | StoredStates | StoredLanguage | None = None
    """The teacher that reads every batch too, or its stored outputs, which come with the rows."""


def make_objective(stage: config_lib.TrainStage, shape: BertConfig, facts: Facts) -> Objective:
    """Returns the pure objective of a training stage.

    Raises:
      ConfigError: where the data lacks what the objective needs, has logits that it would not read,
        or its rows are too long.
    """
    kind = stage.objective
    if stage.data.lengths[-1] > shape.positions:
        raise ConfigError(
            f"data.lengths ends in {stage.data.lengths[-1]}, but the model has {shape.positions} "
            "positions; shorten data.lengths or raise model.positions"
        )
    if stage.data.logits and not isinstance(kind, config_lib.Distillation):
        raise ConfigError(
            f"objective.kind={kind.kind!r} does not learn from data.logits; leave data.logits out, "
            "or set an objective that learns from it, such as 'distill'"
        )
    if isinstance(kind, config_lib.MaskedLanguageModel):
        return _mlm(kind, shape, facts)
    if isinstance(kind, config_lib.Distill):
        return _distill(kind, shape, facts, stored=bool(stage.data.logits))
    if isinstance(kind, config_lib.Patient):
        return _patient(kind, shape, facts)
    if isinstance(kind, config_lib.LanguageDistill):
        return _lm_distill(kind, shape, facts, longest=stage.data.lengths[-1])
    if facts.task is None or not facts.labelled:
        raise ConfigError(
            f"objective.kind='classify' needs labels, but {facts.where} has none; "
            "build its records with examples.task and examples.labels"
        )
    return make_classify(shape, task=facts.task, labels=facts.labels)


def check_temperature(kind: config_lib.Distill, task: str | None) -> None:
    """Raises ConfigError where the temperature would change nothing."""
    if task == "regression" and kind.temperature != 1.0:
        raise ConfigError(
            f"objective.temperature={kind.temperature} changes nothing of a regression, whose loss "
            "is the squared error; leave it out"
        )


def _mlm(kind: config_lib.MaskedLanguageModel, shape: BertConfig, facts: Facts) -> Objective:
    if kind.next_sentence and not facts.next_sentence:
        raise ConfigError(
            f"objective.next_sentence needs sentence pairs, but {facts.where} has none; build its "
            "records with examples.next_sentence=True"
        )
    assert facts.vocabulary is not None, "masking needs the vocabulary"
    return make_mlm(kind, shape, facts.vocabulary)


def _distill(
    kind: config_lib.Distill, shape: BertConfig, facts: Facts, *, stored: bool
) -> Objective:
    """Returns the distillation of a task; `stored` is whether logits come with the rows."""
    if facts.task is None or not stored:
        raise ConfigError(
            "objective.kind='distill' needs data.logits; name the label stage or logit store "
            "to learn from"
        )
    check_temperature(kind, facts.task)
    return make_distill(
        kind, shape, task=facts.task, labels=facts.labels, has_labels=facts.labelled
    )


def _patient(kind: config_lib.Patient, shape: BertConfig, facts: Facts) -> Objective:
    if facts.task is None or not isinstance(facts.teacher, OnlineTeacher | StoredStates):
        raise ConfigError(
            "objective.kind='patient' needs a teacher's states; name a model in "
            "objective.teacher, or in data.logits the store of a label stage with states"
        )
    return make_patient(
        kind,
        shape,
        task=facts.task,
        labels=facts.labels,
        has_labels=facts.labelled,
        teacher=facts.teacher,
    )


def _lm_distill(
    kind: config_lib.LanguageDistill, shape: BertConfig, facts: Facts, *, longest: int
) -> Objective:
    """Returns the triple loss over rows that are cut to `longest` tokens."""
    assert facts.vocabulary is not None, "masking needs the vocabulary"
    teacher = facts.teacher
    if not isinstance(teacher, OnlineTeacher | StoredLanguage):
        raise ConfigError(
            "objective.kind='lm_distill' needs a teacher whose shape is known; name a "
            "pre-trained model or stage in objective.teacher, or in data.logits the store of "
            "a label stage with language"
        )
    if isinstance(teacher, StoredLanguage) and teacher.length != longest:
        raise ConfigError(
            f"data.lengths ends in {longest}, but the logit store was made from rows cut to "
            f"{teacher.length} tokens; end both in the same length"
        )
    return make_lm_distill(kind, shape, facts.vocabulary, teacher)
