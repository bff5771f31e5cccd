"""A pipeline: its stages, how it is carried out, and what is reported at its end."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import pydantic

from pd_jax.config.kinds import (
    Fraction,
    ModelReference,
    Positive,
    Precision,
    RecordsReference,
    Seed,
    frozen,
    referred,
    require,
    require_name,
    require_rising,
    several,
)
from pd_jax.config.scores import SCORES, is_loss
from pd_jax.config.study import Study
from pd_jax.config.text import RecordsStage, Source, SyntheticStage, TokenizerStage
from pd_jax.config.training import Patient, TrainStage
from pd_jax.errors import did_you_mean

ExportFormat = Literal["hf", "onnx", "stablehlo"]
Program = Literal["jax", "onnx", "onnx_int8"]
"""What runs a model: jax on every kind of device here, ONNX on the CPU."""


@frozen
class MaskedTokens:
    """How rows are masked once for a masked language model: the masked tokens of a row depend only
    on the seed and the row's number.
    """

    top_k: Positive = 64
    """Tokens kept at each masked place, with their logits; all others are summed."""
    temperature: Annotated[float, pydantic.Field(gt=0)] = 2.0
    mask_rate: Fraction = 0.15
    whole_word: bool = False
    seed: Seed = 0


@frozen
class LabelStage:
    """A teacher's logits over a dataset, written as a logit store."""

    kind: Literal["label"] = "label"
    teacher: ModelReference
    records: RecordsReference
    batch: Positive = 256
    lengths: tuple[Positive, ...]
    dtype: Precision = "float32"
    labels: tuple[str, ...] = ()
    """Names of the outputs in the teacher's order, where its own names differ from the data's:
    LABEL_0, LABEL_1, or POSITIVE, NEGATIVE.
    """
    states: tuple[Annotated[int, pydantic.Field(ge=0)], ...] = ()
    """Layers, from 0, after which the first token's state is stored too (patient distillation)."""
    language: MaskedTokens | None = None
    """Labels masked tokens with a masked language model instead of rows with a classifier."""
    source: Source | tuple[Source, ...] | None = None
    """The rows' texts for a teacher with another vocabulary; by default what the records were
    built from.
    """

    def __post_init__(self) -> None:
        require_rising(self.lengths)
        require(
            self.language is None or not (self.labels or self.states or self.source),
            "language does not work with labels, states or source, as a masked language model "
            "reads the records' own tokens; leave them out",
        )


@frozen
class ExportStage:
    """A trained model in another program's format."""

    kind: Literal["export"] = "export"
    model: ModelReference
    format: ExportFormat = "hf"
    int8: bool = False
    """With onnx: also a file with 8-bit weights."""
    licence: str | None = None
    """For the model card, an SPDX name."""

    def __post_init__(self) -> None:
        require(
            not self.int8 or self.format == "onnx",
            f"int8 works with format='onnx' only, not with {self.format!r}; leave it out",
        )


@frozen
class Compared:
    """A model of a comparison, and its name there."""

    name: str
    model: ModelReference
    labels: tuple[str, ...] = ()
    """Names of the outputs in the model's order, where its own differ from the data's, as in a
    label stage.
    """


@frozen
class CompareStage:
    """Models side by side on a labelled set: the size, speed and scores of each.

    The first, the teacher, is what the others are compared with.
    """

    kind: Literal["compare"] = "compare"
    models: tuple[Compared, ...]
    records: RecordsReference
    programs: tuple[Program, ...] = ("jax",)
    """The programs that run each model."""
    batch: Positive = 64
    lengths: tuple[Positive, ...]

    def __post_init__(self) -> None:
        require_rising(self.lengths)
        names = [compared.name for compared in self.models]
        require(len(names) > 0, "models must name one model or more")
        require(
            len(set(names)) == len(names),
            f"models has a name twice: {', '.join(names)}; give each its own",
        )
        require(len(self.programs) > 0, "programs must name one program or more")


Stage = Annotated[
    SyntheticStage
    | TokenizerStage
    | RecordsStage
    | TrainStage
    | LabelStage
    | ExportStage
    | CompareStage,
    pydantic.Field(discriminator="kind"),
]


@frozen
class Mesh:
    """Devices along each axis; -1 takes what is left (at most one axis)."""

    data: int = -1
    fsdp: Positive = 1
    tensor: Positive = 1


@frozen
class MeshRule:
    """A mesh for hardware whose device kind and count, `TPU v5 lite:256`, match a pattern."""

    devices: str
    mesh: Mesh

    def __post_init__(self) -> None:
        try:
            re.compile(self.devices)
        except re.error as fault:
            raise ValueError(f"{self.devices!r} is not a regular expression: {fault}") from None


@frozen
class Run:
    """How a run is carried out: nothing here changes what it computes, except `skip_nonfinite`,
    which acts only where training would end.
    """

    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    mesh_rules: tuple[MeshRule, ...] = ()
    """The first rule that matches the hardware replaces `mesh`."""
    save_seconds: Annotated[float, pydantic.Field(gt=0)] = 300.0
    keep_checkpoints: Positive = 2
    """How many are kept while a stage trains; a finished one has its model instead."""
    log_steps: Positive = 50
    tensorboard: bool = True
    prefetch: Positive = 4
    watchdog_seconds: Annotated[float, pydantic.Field(gt=0, le=1e9)] = 1800.0
    skip_nonfinite: Annotated[int, pydantic.Field(ge=0)] = 0
    """How many steps of a stage may be left out because their loss or gradient is not finite."""


@frozen
class Report:
    """The table at the end: the training stages to compare by name, and the metrics to show for
    each.
    """

    title: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    """Label and stage of each line, in order (a ConfigDict would sort a mapping)."""
    metrics: tuple[str, ...] = ()
    reference: Literal["", "SST-2", "MNLI"] = ""
    """The task whose scores in the paper are shown in grey beside ours."""

    def __post_init__(self) -> None:
        labels = [label for label, _ in self.rows]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        require(
            not twice, f"rows has a label twice: {', '.join(twice)}; give each row one of its own"
        )


@frozen
class Pipeline:
    """Stages by name, and what to report on them at the end; with a study, on its cells."""

    name: str
    stages: Mapping[str, Stage]
    report: Report = dataclasses.field(default_factory=Report)
    study: Study | None = None
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self) -> None:
        require_name("the pipeline", self.name)
        for name in self.stages:
            require_name("the stage", name)
        for cell in self.study.cells if self.study else ():
            stage = self.stages.get(cell.stage)
            require(
                isinstance(stage, TrainStage),
                f"study.cells names {cell.stage!r}, which is not a training stage of this pipeline"
                + did_you_mean(cell.stage, self.stages),
            )
        self._check_measures()
        self._check_report()
        for name, stage in self.stages.items():
            if isinstance(stage, TrainStage) and isinstance(stage.objective, Patient):
                if stage.objective.teacher is None:
                    self._check_states(name, stage)

    def stage_of(self, reference: str) -> Stage | None:
        """Returns the stage that a reference names; None for a path, or where there is none."""
        found = referred(reference)
        return self.stages.get(found.stage) if found else None

    def _check_measures(self) -> None:
        """Raises unless the stage of some cell is scored on each set that the study measures."""
        scored = self._scored(cell.stage for cell in self.study.cells) if self.study else set()
        for measure in self.study.measures if self.study else ():
            for name in measure.sets:
                require(
                    name in scored,
                    f"study.measures names the set {name!r}, which no cell's stage has in "
                    f"evaluation.sets or evaluation.final{did_you_mean(name, scored)}",
                )

    def _check_report(self) -> None:
        """Raises unless some training stage is scored on the set of each metric to report."""
        scored = self._scored(self.stages)
        for metric in self.report.metrics:
            of, _, quantity = metric.rpartition("/")
            require(
                of in scored | {"train"},
                f"report.metrics names {metric!r}, but no training stage has {of!r} in "
                "evaluation.sets or evaluation.final"
                + did_you_mean(metric, [f"{name}/{quantity}" for name in sorted(scored)]),
            )
            require(
                of == "train" or quantity in SCORES or is_loss(quantity),
                f"report.metrics names {metric!r}, but no evaluation set has {quantity!r}; name a "
                f"loss, or one of {', '.join(SCORES)}{did_you_mean(quantity, SCORES)}",
            )

    def _scored(self, names: Iterable[str]) -> set[str]:
        """Returns the evaluation sets of those of the stages that train."""
        trained = [self.stages[name] for name in names]
        return {
            name
            for stage in trained
            if isinstance(stage, TrainStage)
            for name in (*stage.evaluation.sets, *stage.evaluation.final)
        }

    def _check_states(self, name: str, stage: TrainStage) -> None:
        """Raises unless all label stages that a stage of patient distillation reads store the same
        states: otherwise it would fail only after the teacher was trained and the rows labelled.
        """
        named = (stage.data.logits, *stage.evaluation.logits.values())
        found = {
            reference: label.states
            for logits in named
            for reference in several(logits)
            if isinstance(label := self.stage_of(reference), LabelStage)
        }
        shown = ", ".join(f"{reference}: {list(states)}" for reference, states in found.items())
        require(
            len(set(found.values())) <= 1 and all(found.values()),
            f"stages.{name} learns from states, but its stores have none or those of other layers "
            f"({shown}); give these label stages the same states",
        )
