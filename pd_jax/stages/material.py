"""Opens the datasets and logit stores of a training stage, and checks that they fit together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from pd_jax import config as config_lib
from pd_jax.data.logits.store import LANGUAGE, LogitStore
from pd_jax.data.logits.teachers import Teachers
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.manifest import TokenizerInfo
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.models.weights import hf
from pd_jax.objectives.objective import OnlineTeacher, StoredLanguage, StoredStates
from pd_jax.stages.classifier import (
    beyond_training,
    check_pairs,
    check_positions,
    load_classifier,
)
from pd_jax.stages.language_teacher import masking_vocabulary, stored_language, with_head
from pd_jax.stages.objectives import Facts


@dataclasses.dataclass(frozen=True)
class Material:
    """The datasets, logit stores and teacher of a training stage, checked against each other."""

    datasets: tuple[Dataset, ...]
    stores: tuple[tuple[LogitStore, ...], ...]
    task: str | None
    labels: tuple[str, ...]
    teacher: OnlineTeacher | StoredStates | StoredLanguage | None = None
    objective: config_lib.Objective | None = None
    """The stage's objective, set by `with_teacher`."""

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The one vocabulary of all datasets."""
        return self.datasets[0].manifest.tokenizer


def open_material(data: config_lib.Data) -> Material:
    """Returns the datasets and logit stores that a config names.

    Raises:
      ConfigError: they do not fit together.
      RecordsError, LogitsError: one of them is incomplete or damaged.
    """
    paths = config_lib.several(data.records)
    datasets: tuple[Dataset, ...] = tuple(Dataset.open(path) for path in paths)
    opened = tuple(LogitStore.open(path) for path in config_lib.several(data.logits))
    of_task = [store.manifest for store in opened if store.manifest.task != LANGUAGE]
    first = of_task[0] if of_task else datasets[0].manifest
    # As in the feed: a store's outputs are reordered to the dataset's labels.
    labels = tuple(datasets[0].manifest.labels or first.labels)
    each = len(opened) // len(datasets)
    of_datasets = tuple(opened[at : at + each] for at in range(0, len(opened), each or 1))
    material = Material(datasets, of_datasets, first.task, labels)
    for path, dataset in zip(paths, datasets, strict=True):
        _check_tokenizer(str(path), dataset, material)
        _check_labels(str(path), dataset.manifest.labels, material)
    # The model is saved with it at the end, when it would be too late to find it missing.
    held = load_tokenizer(datasets[0].folder / "tokenizer")
    if held.fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{datasets[0].folder / 'tokenizer'} is not the tokenizer that its dataset was built "
            "with; restore it or build the dataset again"
        )
    _check_stores(opened)
    return material


@dataclasses.dataclass(frozen=True)
class ScoredSet:
    """An evaluation set, and the teacher whose logits it is compared with, if any."""

    dataset: Dataset
    teachers: Teachers | None


def open_sets(
    paths: Mapping[str, str],
    logits: Mapping[str, str | tuple[str, ...]],
    material: Material,
    data: config_lib.Data,
) -> dict[str, ScoredSet]:
    """Returns evaluation sets by name, a teacher's outputs in the order of the material's labels.

    Several teachers of a set are averaged as `data` says.

    Raises:
      ConfigError: a set has another vocabulary, another task or other labels, or lacks what the
        objective is scored on, or a store lacks rows.
      LogitsError: a store is of another set, or of other labels.
    """
    sets = {}
    for name, path in paths.items():
        dataset = Dataset.open(path)
        _check_tokenizer(f"evaluation set {name}", dataset, material)
        if material.objective is not None:
            check_set(
                f"evaluation set {name}",
                material.objective,
                task=material.task,
                of_set=dataset.manifest.task,
                paired=dataset.manifest.holds("next_sentence_labels"),
            )
        _check_labels(f"evaluation set {name}", dataset.manifest.labels, material)
        teachers = None
        if name in logits:
            stores = [LogitStore.open(path) for path in config_lib.several(logits[name])]
            teachers = _set_teachers(f"evaluation.logits.{name}", dataset, stores, material, data)
        sets[name] = ScoredSet(dataset, teachers)
    return sets


def length_doubts(stage: config_lib.TrainStage, read: Sequence[Dataset]) -> Iterator[str]:
    """Yields what to know of the lengths of rows that a stage and its online teacher read."""
    most = stage.data.lengths[-1]
    yield from filter(None, (dataset.cut_at(most) for dataset in read))
    longest = min(most, max(int(dataset.lengths.max(initial=0)) for dataset in read))
    kind = stage.objective
    if isinstance(kind, config_lib.OnlineDistillation) and kind.teacher is not None:
        if told := beyond_training(kind.teacher, longest):
            yield told


def check_set(
    name: str,
    objective: config_lib.Objective,
    *,
    task: str | None,
    of_set: str | None,
    paired: bool,
) -> None:
    """Raises ConfigError where an evaluation set cannot be scored by an objective that learns
    `task`: its labels are for another task (`of_set`), or it has no sentence pairs (`paired`).
    """
    if isinstance(objective, config_lib.MaskedLanguageModel):
        if objective.next_sentence and not paired:
            raise ConfigError(
                f"{name} has no sentence pairs, which objective.next_sentence is scored on; build "
                "its records with examples.next_sentence=True"
            )
    elif not isinstance(objective, config_lib.LanguageDistill):
        if task is not None and of_set not in (None, task):
            raise ConfigError(
                f"{name} is labelled for {of_set}, and the stage learns {task}; build the set with "
                f"examples.task={task!r}, or leave it out"
            )


def check_tasks(name: str, tasks: Sequence[tuple[str, str | None]]) -> None:
    """Raises ConfigError where stores or datasets, each given with its task (None without labels),
    are for different tasks, and an objective would learn them as one.
    """
    known = [(where, task) for where, task in tasks if task is not None]
    for where, task in known[1:]:
        if task != known[0][1]:
            raise ConfigError(
                f"{name}: {where} is for the task {task}, but {known[0][0]} for {known[0][1]}, and "
                "a stage learns one; name datasets and teachers of one task, or build records "
                "without examples.task"
            )


def _set_teachers(
    name: str,
    dataset: Dataset,
    stores: Sequence[LogitStore],
    material: Material,
    data: config_lib.Data,
) -> Teachers:
    """Returns the teachers of an evaluation set, checked against what the stage learns from."""
    weights = data.logit_weights if len(stores) > 1 else ()
    if weights and len(stores) != len(weights):
        raise ConfigError(
            f"{name} names {len(stores)} stores, but data.logit_weights has {len(weights)}; "
            "name the same teachers in both, or only one store"
        )
    teachers = Teachers(
        dataset,
        stores,
        labels=material.labels,
        weights=weights,
        average=data.logit_average,
    )
    for store in stores:
        _check_language(name, store, material)
        if isinstance(material.teacher, StoredStates):
            _check_states(name, store, material.stores[0][0])
    if not teachers.complete:
        folders = ", ".join(str(store.folder) for store in stores)
        raise ConfigError(
            f"{name}: {folders} has no logits for some rows; label every row of an evaluation set"
        )
    return teachers


def facts(material: Material, stage: config_lib.TrainStage) -> Facts:
    """Returns what the stage's objective needs to know about its open datasets and stores."""
    manifests = [dataset.manifest for dataset in material.datasets]
    kind = stage.objective
    whole_word = isinstance(kind, config_lib.Masked) and kind.whole_word
    return Facts(
        where=str(material.datasets[0].folder),
        vocabulary=masking_vocabulary(material.datasets[0], whole_word=whole_word),
        task=material.task,
        labels=material.labels,
        labelled=all(manifest.task is not None for manifest in manifests),
        next_sentence=all(manifest.holds("next_sentence_labels") for manifest in manifests),
        teacher=material.teacher,
    )


def with_teacher(material: Material, stage: config_lib.TrainStage) -> Material:
    """Returns the material with the teacher that an objective names, or its stored outputs.

    Rows without labels have the teacher's task.

    Raises:
      ConfigError: the teacher has another vocabulary or task, cannot read rows of this length, or
        lacks the MLM head it needs.
      WeightsError: it lacks the classifier it needs.
    """
    kind = stage.objective
    material = dataclasses.replace(material, objective=kind)
    language = _stored_language(material)
    if language is not None and not isinstance(kind, config_lib.LanguageDistill):
        raise ConfigError(
            f"{material.stores[0][0].folder} contains a masked language model's outputs; use "
            "objective.kind='lm_distill' to learn from it, or name another store in data.logits"
        )
    if not isinstance(kind, config_lib.Masked):
        held = (*(store for of_dataset in material.stores for store in of_dataset),)
        opened = (*held, *material.datasets)
        check_tasks("data.records", [(str(one.folder), one.manifest.task) for one in opened])
    if not isinstance(kind, config_lib.OnlineDistillation):
        return material
    if kind.teacher is None:
        states = isinstance(kind, config_lib.Patient)
        held = _stored_states(material) if states else language
        return dataclasses.replace(material, teacher=held)
    if stage.data.logits:
        raise ConfigError(
            "objective.teacher reads every batch itself and needs no data.logits; leave "
            "data.logits out, or leave objective.teacher out to learn from the store"
        )
    return _with_online_teacher(material, stage, kind, kind.teacher)


def _with_online_teacher(
    material: Material,
    stage: config_lib.TrainStage,
    kind: config_lib.OnlineDistillation,
    folder: str,
) -> Material:
    """Returns the material with the model in a folder as the teacher that reads every batch."""
    name = f"objective.teacher={folder}"
    if load_tokenizer(folder).fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{name} and {material.datasets[0].folder} have different "
            "vocabularies; build the records with the teacher's tokenizer"
        )
    head = "mlm" if isinstance(kind, config_lib.LanguageDistill) else "classifier"
    saved = hf.load(folder) if head == "mlm" else load_classifier(folder)[0]
    check_positions(name, saved.config.positions, stage.data.lengths[-1])
    params = with_head(saved, head, name=name)
    pairs = any(dataset.manifest.pairs for dataset in material.datasets)
    check_pairs(saved, pairs=pairs, name=name)
    config = dataclasses.replace(saved.config, dtype=stage.compute.dtype)
    if head == "mlm":
        return dataclasses.replace(material, teacher=OnlineTeacher(config, params))
    task, labels, columns = _teacher_task(saved, material, name=folder)
    teacher = OnlineTeacher(config, params, columns)
    return dataclasses.replace(material, task=task, labels=labels, teacher=teacher)


def _teacher_task(
    saved: hf.SavedModel, material: Material, *, name: str
) -> tuple[str | None, tuple[str, ...], tuple[int, ...]]:
    """Returns the rows' task, its labels, and the index of each label in the teacher's outputs."""
    own = () if saved.task == "regression" else saved.labels
    task, labels = material.task or saved.task, material.labels or own
    if saved.task != task or sorted(own) != sorted(labels):
        raise ConfigError(
            f"objective.teacher={name} is for task {saved.task} with labels {own}, but the rows "
            f"are for {task} with {labels}; name a teacher of their task, or correct problem_type "
            "and id2label in its config.json"
        )
    return task, labels, (0,) if task == "regression" else tuple(map(own.index, labels))


def _stored_language(material: Material) -> StoredLanguage | None:
    """Returns the settings that all stores of masked language model outputs share; None where the
    stores are of a task.
    """
    held = [stored_language(store) for of_dataset in material.stores for store in of_dataset]
    if any(one != held[0] for one in held):
        raise ConfigError(
            "the stores in data.logits were made with different masking, temperature, lengths or "
            "top_k; label all datasets with the same"
        )
    return held[0] if held else None


def _stored_states(material: Material) -> StoredStates | None:
    """Returns the states that all stores have, the same for all (`_check_stores`); None without."""
    if not material.stores or (found := _states_of(material.stores[0][0])) is None:
        return None
    layers, held, shape = found
    return StoredStates(layers, shape[-1], tuple(held))


def _states_of(store: LogitStore) -> tuple | None:
    """Returns the layers of a store's teacher, those whose states it holds, and a row's shape."""
    manifest = store.manifest
    field = next((field for field in manifest.fields if field.name == "states"), None)
    return field and (manifest.about.get("layers"), manifest.about.get("state_layers"), field.shape)


def _check_stores(stores: Sequence[LogitStore]) -> None:
    for store in stores:
        if store.manifest.task != stores[0].manifest.task:
            raise ConfigError(
                f"{store.folder} is for task {store.manifest.task!r}, but {stores[0].folder} for "
                f"{stores[0].manifest.task!r}; name stores of one task in data.logits"
            )
        _check_states("data.logits", store, stores[0])


def _check_states(name: str, store: LogitStore, other: LogitStore) -> None:
    """Raises ConfigError unless both have states of the same layers and size, or neither has."""
    if _states_of(store) != _states_of(other):
        raise ConfigError(
            f"{name}: {store.folder} has {_named_states(store)}, but {other.folder} has "
            f"{_named_states(other)}; give both label stages the same states"
        )


def _named_states(store: LogitStore) -> str:
    if (found := _states_of(store)) is None:
        return "no states"
    layers, held, shape = found
    return f"states of {shape[-1]} numbers after layers {held} of {layers}"


def _check_tokenizer(name: str, dataset: Dataset, material: Material) -> None:
    if dataset.manifest.tokenizer.fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{name} and {material.datasets[0].folder} were tokenised with different vocabularies; "
            "build both with the same tokenizer"
        )


def _check_language(name: str, store: LogitStore, material: Material) -> None:
    language = stored_language(store)
    learnt = material.teacher if isinstance(material.teacher, StoredLanguage) else None
    if language != learnt:
        raise ConfigError(
            f"{name}: {store.folder} is not the kind of store that the stage learns from (masking, "
            "temperature and lengths of a masked language model, or none); label the set the same "
            "way"
        )


def _check_labels(name: str, labels: Sequence[str], material: Material) -> None:
    labels = tuple(labels)
    if labels and material.labels and labels != material.labels:
        raise ConfigError(
            f"{name} has labels {', '.join(labels)}, but the training data has "
            f"{', '.join(material.labels)}; build both with the same examples.labels in the same "
            "order (rows without labels take their teacher's, set by `labels` of its label stage)"
        )
