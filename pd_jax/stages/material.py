"""What a training stage reads, opened and checked against each other."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pd_jax import config as config_lib
from pd_jax.data.logits import LogitStore
from pd_jax.data.manifest import TokenizerInfo
from pd_jax.data.records import Dataset
from pd_jax.data.teachers import Teachers
from pd_jax.data.tokenizers import load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.models.weights import hf
from pd_jax.objectives.mlm import Vocabulary
from pd_jax.objectives.objective import OnlineTeacher, StoredStates
from pd_jax.stages.objectives import Facts


@dataclasses.dataclass(frozen=True)
class Material:
    """What a training stage reads, opened and checked against each other."""

    datasets: tuple[Dataset, ...]
    stores: tuple[tuple[LogitStore, ...], ...]
    task: str | None
    labels: tuple[str, ...]
    teacher: OnlineTeacher | StoredStates | None = None

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The one vocabulary of all datasets."""
        return self.datasets[0].manifest.tokenizer


def open_material(data: config_lib.Data) -> Material:
    """Returns the datasets and logit stores that a config names.

    Raises:
      ConfigError: they do not go together.
      RecordsError, LogitsError: one of them is incomplete or damaged.
    """
    paths = (data.records,) if isinstance(data.records, str) else data.records
    stores = (data.logits,) if isinstance(data.logits, str) else (data.logits or ())
    datasets: tuple[Dataset, ...] = tuple(Dataset.open(path) for path in paths)
    opened: tuple[LogitStore, ...] = tuple(LogitStore.open(path) for path in stores)
    first = opened[0].manifest if opened else datasets[0].manifest
    # As the feed does: a store's outputs are brought into the order of the dataset's labels.
    labels = tuple(datasets[0].manifest.labels or first.labels)
    each = len(opened) // len(datasets)
    of_datasets = tuple(opened[at : at + each] for at in range(0, len(opened), each or 1))
    material = Material(datasets, of_datasets, first.task, labels)
    for path, dataset in zip(paths, datasets, strict=True):
        _check_tokenizer(str(path), dataset, material)
        _check_labels(str(path), dataset.manifest.labels, material)
    # The stage's model is saved with it in the end, when it is too late to find it missing.
    held = load_tokenizer(datasets[0].folder / "tokenizer")
    if held.fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{datasets[0].folder / 'tokenizer'} is not the tokenizer that its dataset was made "
            "with; restore it or build the dataset again"
        )
    for store in opened:
        if store.manifest.task != first.task:
            raise ConfigError(
                f"{store.folder} is of task {store.manifest.task!r}, {opened[0].folder} of "
                f"{first.task!r}; name stores of one task in data.logits"
            )
    return material


@dataclasses.dataclass(frozen=True)
class ScoredSet:
    """An evaluation set, and the teacher whose logits it is compared with, if any."""

    dataset: Dataset
    teachers: Teachers | None


def open_sets(
    paths: Mapping[str, str], logits: Mapping[str, str], material: Material
) -> dict[str, ScoredSet]:
    """Returns evaluation sets by name, a teacher's outputs in the order of the material's labels.

    Raises:
      ConfigError: a set has another vocabulary or other labels, or a store lacks rows.
      LogitsError: a store is of another set, or of other labels.
    """
    sets = {}
    for name, path in paths.items():
        dataset = Dataset.open(path)
        teachers = None
        _check_tokenizer(f"evaluation set {name}", dataset, material)
        _check_labels(f"evaluation set {name}", dataset.manifest.labels, material)
        if name in logits:
            teachers = Teachers(dataset, [LogitStore.open(logits[name])], labels=material.labels)
            if not teachers.complete:
                raise ConfigError(
                    f"evaluation.logits.{name}: {logits[name]} has rows without an answer; "
                    "an evaluation set needs one for every row"
                )
        sets[name] = ScoredSet(dataset, teachers)
    return sets


def facts(material: Material, stage: config_lib.TrainStage) -> Facts:
    """Returns what the stage's objective must know of its open datasets and stores."""
    manifests = [dataset.manifest for dataset in material.datasets]
    masked = (config_lib.MaskedLanguageModel, config_lib.LanguageDistill)
    whole_word = isinstance(stage.objective, masked) and stage.objective.whole_word
    return Facts(
        where=str(material.datasets[0].folder),
        vocabulary=_vocabulary(material, whole_word=whole_word),
        task=material.task,
        labels=material.labels,
        labelled=all(manifest.task is not None for manifest in manifests),
        next_sentence=all(manifest.holds("next_sentence_labels") for manifest in manifests),
        teacher=material.teacher,
    )


def with_teacher(material: Material, stage: config_lib.TrainStage) -> Material:
    """Returns the material with the model that an objective names, or the states of its rows.

    Rows without labels have the teacher's task.

    Raises:
      ConfigError: the teacher has another vocabulary or task, or lacks the head that is asked for.
    """
    kind = stage.objective
    if not isinstance(kind, config_lib.Patient | config_lib.LanguageDistill):
        return material
    if kind.teacher is None:
        return dataclasses.replace(material, teacher=_stored_states(material))
    if stage.data.logits:
        raise ConfigError(
            "objective.teacher reads every batch itself; leave data.logits out, or learn from its "
            "states without objective.teacher"
        )
    if load_tokenizer(kind.teacher).fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"objective.teacher={kind.teacher} and {material.datasets[0].folder} have different "
            "vocabularies; build the records with the teacher's tokenizer"
        )
    saved = hf.load(kind.teacher)
    head = "mlm" if isinstance(kind, config_lib.LanguageDistill) else "classifier"
    if head not in saved.params:
        raise ConfigError(
            f"objective.teacher={kind.teacher} has no {head} head; name a "
            + ("pre-trained model" if head == "mlm" else "fine-tuned model")
        )
    config = dataclasses.replace(saved.config, dtype=stage.compute.dtype)
    bert = {"pooler": _no_pooler(saved), **saved.params["bert"]}
    params = {"bert": bert, head: saved.params[head]}
    if head == "mlm":
        return dataclasses.replace(material, teacher=OnlineTeacher(config, params))
    task, labels = material.task or saved.task, material.labels or saved.labels
    if saved.task != task or sorted(saved.labels) != sorted(labels):
        raise ConfigError(
            f"objective.teacher={kind.teacher} is of task {saved.task} with labels {saved.labels}, "
            f"the rows of {task} with {labels}; name a teacher of their task"
        )
    columns = (0,) if task == "regression" else tuple(map(saved.labels.index, labels))
    teacher = OnlineTeacher(config, params, columns)
    return dataclasses.replace(material, task=task, labels=labels, teacher=teacher)


def _no_pooler(saved: hf.SavedModel) -> dict[str, np.ndarray]:
    """Returns a pooler for a language model that has none: nothing reads what it gives."""
    hidden = saved.config.hidden
    zeros = np.zeros((hidden, hidden), np.float32)
    return {"kernel": zeros, "bias": np.zeros(hidden, np.float32)}


def _stored_states(material: Material) -> StoredStates | None:
    for of_dataset in material.stores:
        said = of_dataset[0].manifest
        field = next((field for field in said.fields if field.name == "states"), None)
        if field is not None:
            about = said.about
            return StoredStates(about["layers"], field.shape[-1], tuple(about["state_layers"]))
    return None


def _check_tokenizer(name: str, dataset: Dataset, material: Material) -> None:
    if dataset.manifest.tokenizer.fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{name} and {material.datasets[0].folder} were tokenised with different vocabularies; "
            "build both with the same tokenizer"
        )


def _check_labels(name: str, labels: Sequence[str], material: Material) -> None:
    labels = tuple(labels)
    if labels and material.labels and labels != material.labels:
        raise ConfigError(
            f"{name} has labels {', '.join(labels)}, but the training data has "
            f"{', '.join(material.labels)}; build both with the same examples.labels in one order"
        )


def _vocabulary(material: Material, *, whole_word: bool) -> Vocabulary:
    tokenizer = material.tokenizer
    starts = (
        load_tokenizer(material.datasets[0].folder / "tokenizer").word_starts
        if whole_word
        else None
    )
    return Vocabulary(
        tokenizer.vocab_size,
        tokenizer.pad_id,
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.mask_id,
        starts,
    )
