"""Compares teacher and students: a table of each model's cost and scores, as JSON."""

import dataclasses
from collections.abc import Callable, Sequence

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.feed.batches import evaluation_batches
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError, RecordsError
from pd_jax.evaluation.compare import check_programs, compare, devices
from pd_jax.models.export.results import Measured
from pd_jax.models.weights import hf
from pd_jax.progress import Progress
from pd_jax.stages.classifier import (
    beyond_training,
    check_pairs,
    check_positions,
    load_classifier,
    output_names,
)
from pd_jax.stages.context import Context, Done

FILE = "comparison.json"


def run_compare(stage: config_lib.CompareStage, context: Context) -> Done:
    """Measures the models on this process's devices and writes `comparison/comparison.json`."""
    found = [measured.as_json() for measured in compare_models(stage, warn=context.warn)]
    output = context.output("compare")
    files.write_json(output / FILE, {"models": found})
    return Done(outputs={"table": f"{output.name}/{FILE}", "models": found})


def compare_models(
    stage: config_lib.CompareStage, *, warn: Callable[[str], None]
) -> Sequence[Measured]:
    """Returns every model of the stage in every program that the stage names, in order; `warn` is
    called with a sentence on rows that are cut, or longer than those that a model was trained on.

    Raises:
      ConfigError: a model cannot read texts of this length or pairs, or a program is not installed.
      RecordsError: the records have no labels.
      WeightsError: a model is of another task or vocabulary.
    """
    check_programs(stage.programs)
    dataset = Dataset.open(stage.records)
    manifest = dataset.manifest
    if manifest.task is None:
        raise RecordsError(f"{dataset.folder} has no labels; compare models on a labelled set")
    models = {item.name: _load(item, dataset, stage.lengths[-1]) for item in stage.models}
    if told := dataset.cut_at(stage.lengths[-1]):
        warn(told)
    longest = min(stage.lengths[-1], int(dataset.lengths.max(initial=0)))
    for folder in dict.fromkeys(item.model for item in stage.models):
        if told := beyond_training(folder, longest):
            warn(told)
    runs = len(stage.programs) + ("jax" in stage.programs) * (len(devices()) - 1)
    total = len(dataset) * len(models) * runs
    with Progress("comparing", total, unit="rows") as progress:

        def advance(title: str, rows: int) -> None:
            progress.advance(rows, model=title)

        return list(
            compare(
                models,
                lambda: evaluation_batches(dataset, batch=stage.batch, lengths=stage.lengths),
                task=manifest.task,
                labels=tuple(manifest.labels),
                wanted=stage.programs,
                advance=advance,
            )
        )


def _load(item: config_lib.Compared, dataset: Dataset, longest: int) -> hf.SavedModel:
    """Returns a model that can read a dataset's rows, cut at `longest` tokens."""
    manifest = dataset.manifest
    model, tokenizer = load_classifier(item.model)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ConfigError(
            f"{item.name} ({item.model}) and records {dataset.folder} have different vocabularies; "
            "build the records with the models' tokenizer"
        )
    check_positions(item.name, model.config.positions, longest)
    check_pairs(model, pairs=manifest.pairs, name=item.name)
    if not item.labels:
        return model
    return dataclasses.replace(model, labels=output_names(item.name, item.labels, model.labels))
