"""Wires one training job: datasets, objective, first weights, loop, evaluation, and the model it
leaves.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.data.feed import evaluation_batches, make_feed, rows_per_epoch
from pd_jax.data.logits import LogitStore
from pd_jax.data.records import Dataset
from pd_jax.data.tokenizers import load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.evaluation.evaluate import evaluate
from pd_jax.models import sizes
from pd_jax.models.initialise import initialise
from pd_jax.models.weights import hf
from pd_jax.objectives.classify import make_classify
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.objectives.objective import Objective
from pd_jax.parallel import distributed, sharding
from pd_jax.parallel.mesh import check_heads, mesh_for, row_share
from pd_jax.progress import Progress
from pd_jax.stages.context import Context, Done
from pd_jax.training import arrays, rng
from pd_jax.training.loop import Job, train
from pd_jax.training.optim import make_optimizer, make_schedule
from pd_jax.training.step import check_batch, make_evaluation_step, make_init, make_train_step


@dataclasses.dataclass(frozen=True)
class _Material:
    """What a training stage reads, opened and checked against each other."""

    datasets: tuple[Dataset, ...]
    stores: tuple[tuple[LogitStore, ...], ...]
    task: str | None
    labels: tuple[str, ...]

    @property
    def tokenizer(self) -> Any:
        return self.datasets[0].manifest.tokenizer


def run_train(stage: config_lib.TrainStage, context: Context) -> Done:
    """Trains, and writes the stage's model folder; continues from the newest checkpoint of an
    interrupted run.
    """
    mesh = mesh_for(context.run)
    check_batch(stage.data.batch, micro_batches=stage.compute.micro_batches, mesh=mesh)
    material = _open(stage.data)
    sets = {name: Dataset.open(path) for name, path in stage.evaluation.sets.items()}
    final = {name: Dataset.open(path) for name, path in stage.evaluation.final.items()}
    for name, dataset in {**sets, **final}.items():
        _check_tokenizer(f"evaluation set {name}", dataset, material)
        _check_labels(name, dataset, material)
    shape = sizes.bert_config(
        stage.model, vocab_size=material.tokenizer.vocab_size, compute=stage.compute
    )
    check_heads(shape.heads, mesh)
    objective = make_objective(stage, shape, material)
    rows = rows_per_epoch(material.datasets, stage.data)
    steps = stage.length.in_steps(rows=rows, batch=stage.data.batch)

    fresh = jax.eval_shape(objective.init, rng.root_key(stage.seed))
    params_at = sharding.assign(fresh, sharding.RULES, mesh)
    score = _scorer(objective, stage, material, mesh, params_at)
    every = stage.evaluation.every
    share, shares = row_share(mesh)
    best_folder = context.folder / "best"
    with Progress(context.name, total=steps, unit="steps") as progress:
        job = Job(
            name=context.name,
            terms=objective.terms,
            feed=lambda first: make_feed(
                material.datasets,
                stage.data,
                stores=material.stores,
                seed=stage.seed,
                first_step=first,
                steps=steps,
                process_index=share,
                process_count=shares,
                prefetch=context.run.prefetch,
            ),
            steps=steps,
            batch=stage.data.batch,
            seed=stage.seed,
            evaluate=(lambda params: score(params, sets)) if sets else None,
            evaluate_every=every.in_steps(rows=rows, batch=stage.data.batch) if every else None,
            best=stage.evaluation.best,
            keep_best=lambda step, params: _save_model(
                best_folder / str(step), params, shape, material
            ),
            **_stepper(stage, objective, material, mesh, params_at, steps, context),
        )
        outcome = train(
            job, context.folder, context.run, mesh, progress=progress, warn=context.warn
        )

    result = outcome.state.params
    if outcome.best_step is not None:
        saved = hf.load(best_folder / str(outcome.best_step))
        result = arrays.place(saved.params, params_at)
    metrics = {**outcome.metrics, **score(result, {**sets, **final})}
    model = context.output("train")
    _save_model(model, result, shape, material)
    if distributed.is_writer():
        load_tokenizer(material.datasets[0].folder / "tokenizer").save(model)
        if best_folder.exists():
            best_folder.rmtree()
    return Done(
        metrics=metrics,
        seconds=outcome.seconds,
        steps=steps,
        examples=steps * stage.data.batch,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(fresh)),
        megabytes=round((model / hf.WEIGHTS_FILE).stat().length / 1e6, 3)
        if model.exists()
        else 0.0,
        outputs={"best_step": outcome.best_step},
    )


def make_objective(
    stage: config_lib.TrainStage, shape: sizes.BertConfig, material: "_Material"
) -> Objective:
    """Returns the pure objective of a training stage over the datasets it reads."""
    kind = stage.objective
    manifests = [dataset.manifest for dataset in material.datasets]
    if isinstance(kind, config_lib.MaskedLanguageModel):
        if kind.next_sentence and not all(
            dataset.manifest.holds("next_sentence_labels") for dataset in material.datasets
        ):
            raise ConfigError(
                "objective.next_sentence needs records built with examples.next_sentence=True; "
                f"{material.datasets[0].folder} has no sentence pairs"
            )
        return make_mlm(kind, shape, _vocabulary(material, whole_word=kind.whole_word))
    if isinstance(kind, config_lib.Distill):
        if not material.stores:
            raise ConfigError(
                "objective.kind='distill' needs data.logits: name the label stage or logit store "
                "to learn from"
            )
        labelled = all(manifest.task is not None for manifest in manifests)
        return make_distill(
            kind, shape, task=material.task, labels=material.labels, has_labels=labelled
        )
    if manifests[0].task is None:
        raise ConfigError(
            f"objective.kind='classify' needs labels, and {material.datasets[0].folder} has none; "
            "build its records with examples.task and examples.labels"
        )
    return make_classify(shape, task=manifests[0].task, labels=material.labels)


def _open(data: config_lib.Data) -> _Material:
    paths = (data.records,) if isinstance(data.records, str) else data.records
    stores = (data.logits,) if isinstance(data.logits, str) else (data.logits or ())
    datasets = tuple(Dataset.open(path) for path in paths)
    if stores and len(datasets) > 1:
        raise ConfigError(
            "data.logits goes with one dataset in data.records; build the transfer sets into one "
            "dataset"
        )
    opened = tuple(LogitStore.open(path) for path in stores)
    first = opened[0].manifest if opened else datasets[0].manifest
    # As the feed does: a store's outputs are brought into the order of the dataset's labels.
    labels = tuple(datasets[0].manifest.labels or first.labels)
    material = _Material(datasets, (opened,) if opened else (), first.task, labels)
    for path, dataset in zip(paths, datasets, strict=True):
        _check_tokenizer(str(path), dataset, material)
    return material


def _check_tokenizer(name: str, dataset: Dataset, material: _Material) -> None:
    if dataset.manifest.tokenizer.fingerprint != material.tokenizer.fingerprint:
        raise ConfigError(
            f"{name} and {material.datasets[0].folder} were tokenised with different vocabularies; "
            "build both with the same tokenizer"
        )


def _check_labels(name: str, dataset: Dataset, material: _Material) -> None:
    labels = tuple(dataset.manifest.labels)
    if labels and material.labels and labels != material.labels:
        raise ConfigError(
            f"evaluation set {name} has labels {', '.join(labels)}, but the training data has "
            f"{', '.join(material.labels)}; build both with the same examples.labels in one order"
        )


def _vocabulary(material: _Material, *, whole_word: bool) -> Vocabulary:
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


def _stepper(
    stage: config_lib.TrainStage,
    objective: Objective,
    material: _Material,
    mesh: Mesh,
    params_at: Any,
    steps: int,
    context: Context,
) -> dict[str, Any]:
    """Returns the jitted step, the first state, and the state's layout."""
    optimizer = make_optimizer(stage.optimizer, steps)
    init = make_init(optimizer)
    shapes = jax.eval_shape(lambda key: init(objective.init(key)), rng.root_key(stage.seed))
    state_at = sharding.assign(shapes, sharding.RULES, mesh)
    step = make_train_step(
        objective,
        optimizer,
        make_schedule(stage.optimizer, steps),
        mesh=mesh,
        state_sharding=state_at,
        micro_batches=stage.compute.micro_batches,
    )

    def first_state() -> Any:
        params = _first_params(stage, objective, material, params_at, context)
        return jax.jit(init, in_shardings=(params_at,), out_shardings=state_at)(params)

    like = jax.tree.map(
        lambda shape, at: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=at),
        shapes,
        state_at,
    )
    return {"step": step, "state": first_state, "like": like}


def _first_params(
    stage: config_lib.TrainStage,
    objective: Objective,
    material: _Material,
    params_at: Any,
    context: Context,
) -> Any:
    """Returns the first weights on the devices; parameters.txt says which came from where."""
    fresh = jax.jit(objective.init, out_shardings=params_at)(rng.root_key(stage.seed))
    if stage.init.source is None:
        lines = "every parameter: from the seed\n"
    else:
        fresh, report = initialise(
            fresh,
            hf.load(stage.init.source),
            stage.init,
            model=objective.config,
            labels=material.labels,
        )
        fresh = arrays.place(fresh, params_at)
        lines = report.text()
    if distributed.is_writer():
        (context.folder / "parameters.txt").write_text(
            lines + "\n" + sharding.table(fresh, params_at)
        )
    return fresh


def _scorer(
    objective: Objective,
    stage: config_lib.TrainStage,
    material: _Material,
    mesh: Mesh,
    params_at: Any,
) -> Callable[[Any, dict[str, Dataset]], dict[str, float]]:
    step = make_evaluation_step(objective, mesh=mesh, param_sharding=params_at)
    share, shares = row_share(mesh)

    def score(params: Any, sets: dict[str, Dataset]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, dataset in sets.items():
            batches = evaluation_batches(
                dataset,
                batch=stage.evaluation.batch,
                lengths=stage.data.lengths,
                process_index=share,
                process_count=shares,
            )
            with jax.set_mesh(mesh):
                values = evaluate(
                    step, params, batches, mesh, terms=objective.terms, task=material.task
                )
            found |= {f"{name}/{key}": value for key, value in values.items()}
        return found

    return score


def _save_model(
    folder: epath.Path, params: Any, shape: sizes.BertConfig, material: _Material
) -> None:
    """Writes the weights as a Hugging Face folder, from one process."""
    params_on_host = arrays.to_host(params)
    if distributed.is_writer():
        hf.save(folder, params_on_host, shape, labels=material.labels, task=material.task)
