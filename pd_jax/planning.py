"""The stages of a pipeline in an order in which they can run, each with what it depends on.

A stage's fingerprint is a digest of its config, of the fingerprints of the stages it reads and of
the content of the files it reads. Equal stages have one folder, whatever pipelines name them.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.config import Source, reading
from pd_jax.data.text import paths
from pd_jax.errors import ConfigError, StageError, did_you_mean
from pd_jax.inputs import InputDigests
from pd_jax.workdir import DONE, OUTPUT, STAGES

_INPUTS = "inputs.json"
_FORMAT = 1
"""Raised when a stage's meaning changes such that earlier folders must not be reused."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """One stage of a pipeline, resolved: its name, its folder, and what it reads."""

    name: str
    stage: Any
    inputs: tuple[str, ...]
    fingerprint: str
    folder: epath.Path

    @property
    def done(self) -> bool:
        """Whether the stage has finished."""
        return (self.folder / DONE).exists()

    @property
    def output(self) -> epath.Path:
        """The folder that `@name` stands for."""
        return self.folder / OUTPUT[self.stage.kind]


def plan(
    pipeline: config_lib.Pipeline, workdir: epath.Path, *, only: Sequence[str] = ()
) -> dict[str, Planned]:
    """Returns every stage of the pipeline by name, in an order in which they can run.

    Where only some are to run, those that these do not need are left out if what they read does not
    exist: it may yet be made from what the others write.

    Raises:
      ConfigError: a reference to an unknown stage, or stages that wait for each other.
      StageError: an input file of a stage that is not done does not exist.
    """
    digests = InputDigests(workdir / _INPUTS)
    planned: dict[str, Planned] = {}
    ordered = order(pipeline.stages)
    check_kinds(pipeline.stages)
    needed = _needed_by(only or ordered, pipeline.stages)
    for name in ordered:
        stage = pipeline.stages[name]
        inputs = tuple(_read_by(stage))
        if not all(need in planned for need in inputs):
            continue
        try:
            fingerprint = _fingerprint(name, stage, planned, digests)
            item = Planned(name, stage, inputs, fingerprint, _folder(workdir, name, fingerprint))
            if not item.done:
                digests.require(reading.references(stage), stage=name)
        except StageError:
            if name in needed:
                raise
        else:
            planned[name] = item
    digests.save()
    return planned


def _needed_by(names: Iterable[str], stages: Mapping[str, Any]) -> set[str]:
    """Returns stages and all that they need, directly or not."""
    found, waiting = set[str](), list(names)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _read_by(stages[name])
    return found


def _fingerprint(
    name: str, stage: Any, planned: Mapping[str, Planned], digests: InputDigests
) -> str:
    """Returns a digest of a stage's config and of everything that it reads."""

    def identity(reference: str, holder: Any) -> str:
        found = config_lib.referred(reference)
        if found is None:
            # A records stage names, beside its sources, its tokenizer alone.
            tokenizer = isinstance(holder, config_lib.RecordsStage)
            digest = digests.of(reference, stage=name, tokenizer=tokenizer)
            return digest + (_unusual(reference, holder) if isinstance(holder, Source) else "")
        return f"@{planned[found.stage].fingerprint}/{found.inside}"

    described = reading.to_json(reading.map_references(stage, identity))
    return files.digest_json({"format": _FORMAT, "stage": described})[:12]


def _unusual(reference: str, source: Source) -> str:
    """Returns what a source's content does not tell: the format that its file's ending implies.

    It is empty for the usual one: TSV where there are columns, else text.
    """
    usual = "tsv" if source.label or source.pair else "text"
    found = paths.format_of(reference) if source.format == "auto" else None
    return f".{found}" if found not in (None, usual) else ""


def check_unchanged(item: Planned, planned: Mapping[str, Planned], workdir: epath.Path) -> None:
    """Raises StageError where a file that the stage reads has changed since it was planned: its
    output would be taken for that of the earlier content.
    """
    if _fingerprint(item.name, item.stage, planned, InputDigests(workdir / _INPUTS)) != (
        item.fingerprint
    ):
        raise StageError(
            f"the inputs of stage {item.name!r} have changed since this run started; run the same "
            "command again, and do not change them while it runs"
        )


def order(stages: Mapping[str, Any]) -> list[str]:
    """Returns the stages' names in an order in which each follows those it reads."""
    done: list[str] = []
    waiting = {name: set(_read_by(stage)) for name, stage in stages.items()}
    for name, needs in waiting.items():
        for need in sorted(needs - set(stages)):
            raise ConfigError(
                f"stage {name!r} refers to @{need}, which is not a stage of this pipeline "
                f"({', '.join(stages)})" + did_you_mean(need, stages)
            )
    while waiting:
        ready = [name for name, needs in waiting.items() if needs <= set(done)]
        if not ready:
            raise ConfigError(
                f"these stages wait for each other: {', '.join(sorted(waiting))}; break the cycle"
            )
        done += ready
        for name in ready:
            del waiting[name]
    return done


def check_kinds(stages: Mapping[str, Any]) -> None:
    """Raises ConfigError where a stage refers to one that does not make what is read there."""
    for name, stage in stages.items():
        for where, reference, mark in reading.placed_references(stage, f"stages.{name}"):
            if (found := config_lib.referred(reference)) is None:
                continue
            kind = stages[found.stage].kind
            if kind not in mark.kinds and f"{kind}/{found.inside}" not in mark.kinds:
                fitting = " or ".join(one for one in mark.kinds if "/" not in one)
                raise ConfigError(
                    f"{where} names {reference}, a stage of kind {kind}; name one of kind {fitting}"
                )


def _read_by(stage: Any) -> list[str]:
    """Returns the names of the stages that a stage refers to, in field order."""
    found = map(config_lib.referred, reading.references(stage))
    return list(dict.fromkeys(one.stage for one in found if one is not None))


def _folder(workdir: epath.Path, name: str, fingerprint: str) -> epath.Path:
    """Returns the folder of a fingerprint, by whatever name an equal stage was first run."""
    stages = workdir / STAGES
    own = stages / f"{name}-{fingerprint}"
    if own.exists() or not stages.exists():
        return own
    equal = [path for path in stages.iterdir() if path.name.endswith(f"-{fingerprint}")]
    return equal[0] if equal else own


def located(item: Planned, workdir: epath.Path) -> Planned:
    """Returns a stage with the folder in which its fingerprint is now."""
    return dataclasses.replace(item, folder=_folder(workdir, item.name, item.fingerprint))


def vmap_groups(items: Sequence[Planned], most: int) -> list[tuple[str, ...]]:
    """Returns groups of at most `most` training stages that one program can train: they differ only
    in seed, learning rate and first weights, and none waits for another.

    Rows must have one padded length: with several, or packed rows, runs with different seeds have
    batches of different shapes at the same step. Epochs of a mixture have different numbers of
    steps for different seeds.
    """
    depths: dict[str, int] = {}
    similar: dict[tuple[str, int], dict[str, str]] = {}
    for item in items:
        depths[item.name] = 1 + max((depths.get(need, 0) for need in item.inputs), default=0)
        stage = item.stage
        if not isinstance(stage, config_lib.TrainStage):
            continue
        mixed_epochs = stage.data.weights and stage.length.epochs is not None
        if len(stage.data.lengths) == 1 and stage.data.packing == 1 and not mixed_epochs:
            same = (_but_for_the_run(stage), depths[item.name])
            # Of equal stages only the first is run.
            similar.setdefault(same, {}).setdefault(item.fingerprint, item.name)
    groups = []
    for found in similar.values():
        names = list(found.values())
        groups += [tuple(names[first : first + most]) for first in range(0, len(names), most)]
    return [group for group in groups if len(group) > 1]


def _but_for_the_run(stage: config_lib.TrainStage) -> str:
    """Returns a digest of a stage without what may differ between the runs of one program."""
    optimizer = dataclasses.replace(stage.optimizer, learning_rate=1.0)
    init = dataclasses.replace(stage.init, source="" if stage.init.source else None)
    same = dataclasses.replace(stage, seed=0, optimizer=optimizer, init=init)
    return files.digest_json(reading.to_json(same))


def check_names(pipeline: config_lib.Pipeline, only: Sequence[str]) -> None:
    """Raises ConfigError where `--stages` or the report names a stage that does not exist."""
    named = [(name, "--stages") for name in only] + [
        (name, f"config.report.rows.{label}") for label, name in pipeline.report.rows
    ]
    for name, where in named:
        if name not in pipeline.stages:
            raise ConfigError(
                f"{where} names {name!r}, which is not a stage of this pipeline "
                f"({', '.join(pipeline.stages)})" + did_you_mean(name, pipeline.stages)
            )
