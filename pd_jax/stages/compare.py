"""Compares teacher and students: a table of each model's cost and scores, as JSON."""

import dataclasses
from collections.abc import Sequence

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.feed.batches import evaluation_batches
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError, RecordsError
from pd_jax.evaluation.compare import Measured, compare, devices
from pd_jax.progress import Progress
from pd_jax.stages.context import Context, Done
from pd_jax.stages.predict import check_pairs, load_classifier, output_names

FILE = "comparison.json"


def run_compare(stage: config_lib.CompareStage, context: Context) -> Done:
    """Measures the models on this process's devices and writes `comparison/comparison.json`."""
    found = [measured.as_json() for measured in compare_models(stage)]
    output = context.output("compare")
    files.write_json(output / FILE, {"models": found})
    return Done(outputs={"table": f"{output.name}/{FILE}", "models": found})


def compare_models(stage: config_lib.CompareStage) -> Sequence[Measured]:
    """Returns every model of the stage in every program that the stage names, in order.

    Raises:
      ConfigError: a model cannot read texts of this length or pairs, or a program is not installed.
      RecordsError: the records have no labels.
      WeightsError: a model is of another task or vocabulary.
    """
    dataset = Dataset.open(stage.records)
    manifest = dataset.manifest
    if manifest.task is None:
        raise RecordsError(f"{dataset.folder} has no labels; compare models on a labelled set")
    models = {}
    for item in stage.models:
        models[item.name], tokenizer = load_classifier(item.model)
        if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            raise ConfigError(
                f"{item.name} ({item.model}) and records {dataset.folder} have different "
                "vocabularies; build the records with the models' tokenizer"
            )
        positions = models[item.name].config.positions
        if stage.lengths[-1] > positions:
            raise ConfigError(
                f"{item.name} can read {positions} tokens, but rows are cut at "
                f"{stage.lengths[-1]}; cut them at {positions} or fewer"
            )
        check_pairs(models[item.name], pairs=manifest.pairs, name=item.name)
        if item.labels:
            named = output_names(item.name, item.labels, models[item.name].labels)
            models[item.name] = dataclasses.replace(models[item.name], labels=named)

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
