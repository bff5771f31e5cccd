"""Wires up a training job: datasets, objective, first weights, loop, evaluation, final model."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.feed.batches import evaluation_batches, examples_of, make_feed, rows_per_epoch
from pd_jax.data.records import shared_rows
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.evaluation import predictions
from pd_jax.evaluation.evaluate import Evaluated, evaluate
from pd_jax.models import sizes
from pd_jax.models.initialise import computing_as
from pd_jax.models.weights import hf, layout
from pd_jax.objectives.objective import Objective
from pd_jax.parallel import distributed, sharding
from pd_jax.parallel.mesh import check_heads, mesh_for, row_places, row_share
from pd_jax.stages import first_weights
from pd_jax.stages.context import Context, Done
from pd_jax.stages.material import (
    Material,
    ScoredSet,
    facts,
    length_doubts,
    open_material,
    open_sets,
    with_teacher,
)
from pd_jax.stages.objectives import make_objective
from pd_jax.training import arrays, rng
from pd_jax.training.driver import train
from pd_jax.training.job import Job, Outcome
from pd_jax.training.many import make_many_step
from pd_jax.training.metrics import finite
from pd_jax.training.state import TrainState
from pd_jax.training.step import (
    check_batch,
    first_state,
    make_evaluation_step,
    make_train_step,
)
from pd_jax.training.utilisation import matmul_peak, utilisation
from pd_jax.workdir import CHECKPOINTS


def run_train(stage: config_lib.TrainStage, context: Context) -> Done:
    """Trains and writes the stage's model folder; continues from an interrupted run's newest
    checkpoint.
    """
    (outcome,) = run_together([stage], [context])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_together(
    stages: Sequence[config_lib.TrainStage], contexts: Sequence[Context]
) -> list[Done | Exception]:
    """Trains stages that differ only in seed, learning rate and first weights in one program
    (`planning.vmap_groups` finds them); returns the result of each, or the fault that ended it.

    Raises:
      ConfigError: their first weights are of models that compute differently.
    """
    mesh = mesh_for(contexts[0].run)
    opened: list[_Work | Exception] = []
    for stage, context in zip(stages, contexts, strict=True):
        like = next((work for work in opened if isinstance(work, _Work)), None)
        opened.append(_tried(_open, stage, context, mesh, like))
    works = [work for work in opened if not isinstance(work, Exception)]
    if any(work.objective.config != works[0].objective.config for work in works):
        raise ConfigError(
            "the models in init.source of stages to be trained together compute differently "
            "(GELU, or epsilon of the norms); run them without --vmap"
        )
    jobs = [work.job() for work in works]
    outcomes = iter(train(jobs, contexts[0].run, mesh) if jobs else ())
    found: list[Done | Exception] = []
    for work in opened:
        if isinstance(work, Exception):
            found.append(work)
        elif isinstance(outcome := next(outcomes), Exception):
            found.append(outcome)
        else:
            found.append(_tried(_finish, work, outcome))
    return found


def _tried(do: Callable[..., Any], *given: Any) -> Any:
    """Returns what a function returns, or the fault that ended it: the other members go on."""
    try:
        return do(*given)
    except Exception as fault:
        return fault


def _open(
    stage: config_lib.TrainStage, context: Context, mesh: Mesh, like: "_Work | None"
) -> "_Work":
    """Returns a stage's parts, opened and checked against each other and the mesh.

    `like` has the parts of a stage that is trained in the same program, if there is one: what both
    read, and the teacher on the devices, are taken from there.
    """
    check_batch(stage.data.batch, micro_batches=stage.compute.micro_batches, mesh=mesh)
    if like is None:
        material = with_teacher(open_material(stage.data), stage)
        sets, final = (
            open_sets(paths, stage.evaluation.logits, material, stage.data)
            for paths in (stage.evaluation.sets, stage.evaluation.final)
        )
        _tell_shared_rows(stage, context, material, {**sets, **final})
    else:
        material, sets, final = like.material, like.sets, like.final
    scored = (one.dataset for one in (*sets.values(), *final.values()))
    for told in length_doubts(stage, (*material.datasets, *scored)):
        context.warn(told)
    shape = sizes.bert_config(
        stage.model, vocab_size=material.tokenizer.vocab_size, compute=stage.compute
    )
    if stage.init.source is not None and stage.init.scope == "model":
        shape = computing_as(hf.load_config(stage.init.source), shape)
    check_heads(shape.heads, mesh)
    objective = make_objective(stage, shape, facts(material, stage))
    if like is None:
        frozen_at = sharding.assign(objective.frozen, sharding.RULES, mesh)
        frozen = arrays.place(objective.frozen, frozen_at)
    else:
        frozen = like.objective.frozen
    objective = dataclasses.replace(objective, frozen=frozen)
    carried = first_weights.carried(stage, objective)
    return _Work(stage, context, mesh, material, objective, sets, final, carried)


def _tell_shared_rows(
    stage: config_lib.TrainStage,
    context: Context,
    material: Material,
    scored: Mapping[str, ScoredSet],
) -> None:
    """Warns of evaluation sets of a task whose rows are also learnt from."""
    if isinstance(stage.objective, config_lib.Masked) or not distributed.is_writer():
        return
    sets = {name: one.dataset for name, one in scored.items()}
    for told in shared_rows.told(sets, material.datasets):
        context.warn(told)


def _finish(work: "_Work", outcome: Outcome) -> Done:
    """Scores a trained stage's model, writes it, and returns the stage's result."""
    stage, context = work.stage, work.context
    params = outcome.state.params
    if outcome.best_step is not None:
        params = arrays.place(hf.load(work.best / str(outcome.best_step)).params, work.params_at)
    # Training ends with an evaluation, of these parameters unless an earlier step's were better.
    known = work.last if outcome.best_step in (None, work.steps) else {}
    known = {name: found for name, found in known.items() if name not in work.final}
    wanted = {**work.sets, **work.final}
    scored = known | work.evaluate(
        params, {name: wanted[name] for name in wanted if name not in known}
    )
    metrics = {**outcome.metrics, **finite(_named(scored))}
    if distributed.is_writer():
        found = {name: evaluated.predictions for name, evaluated in scored.items()}
        predictions.write(context.folder, found)
    model = context.output("train")
    work.save_model(model, params, work.carried)
    weights = model / hf.WEIGHTS_FILE
    return Done(
        metrics=metrics,
        seconds=outcome.seconds,
        steps=work.steps,
        examples=work.steps * stage.data.batch,
        parameters=sum(leaf.size for leaf in jax.tree.leaves((work.shapes, work.carried))),
        megabytes=round(files.size(weights) / 1e6, 3) if weights.exists() else 0.0,
        outputs={"best_step": outcome.best_step, "skipped_steps": outcome.skipped_steps},
        scratch=(work.best, context.folder / CHECKPOINTS),
        utilisation=utilisation(
            outcome.flops,
            outcome.spans,
            seconds=outcome.seconds,
            peak=matmul_peak(work.objective.config.dtype) * work.mesh.size,
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Work:
    """One stage's parts, and what follows from them."""

    stage: config_lib.TrainStage
    context: Context
    mesh: Mesh
    material: Material
    objective: Objective
    sets: dict[str, ScoredSet]
    final: dict[str, ScoredSet]
    carried: dict[str, np.ndarray]
    """What the finished model has beside what was trained."""
    last: dict[str, Evaluated] = dataclasses.field(default_factory=dict)
    """What the newest evaluation of `sets` found."""

    @property
    def best(self) -> epath.Path:
        """Where candidates for the best weights go; an interrupted stage needs them again."""
        return self.context.folder / "best"

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.material.datasets[0].folder / "tokenizer")

    @cached_property
    def rows(self) -> int:
        return rows_per_epoch(self.material.datasets, self.stage.data, seed=self.stage.seed)

    @cached_property
    def steps(self) -> int:
        return self.stage.length.in_steps(rows=self.rows, batch=self.stage.data.batch)

    @cached_property
    def shapes(self) -> Any:
        return jax.eval_shape(self.objective.init, rng.root_key(self.stage.seed))

    @cached_property
    def params_at(self) -> Any:
        return sharding.assign(self.shapes, sharding.RULES, self.mesh)

    @cached_property
    def evaluation_step(self) -> Any:
        return make_evaluation_step(self.objective, mesh=self.mesh, param_sharding=self.params_at)

    def job(self) -> Job:
        """Returns the job for the loop."""
        stage, evaluation = self.stage, self.stage.evaluation
        state = jax.eval_shape(first_state, self.shapes)
        state_at = sharding.assign(state, sharding.RULES, self.mesh)
        common = {
            "mesh": self.mesh,
            "state_sharding": state_at,
            "micro_batches": stage.compute.micro_batches,
            "skip_nonfinite": self.context.run.skip_nonfinite > 0,
        }

        def begin() -> TrainState:
            make = jax.jit(first_state, in_shardings=(self.params_at,), out_shardings=state_at)
            return make(self.first_params())

        every = evaluation.every
        return Job(
            name=self.context.name,
            folder=self.context.folder,
            warn=self.context.warn,
            step=make_train_step(self.objective, stage.optimizer, steps=self.steps, **common),
            many=make_many_step(self.objective, stage.optimizer, **common),
            terms=self.objective.terms,
            state=begin,
            like=jax.tree.map(
                lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
                state,
                state_at,
            ),
            feed=self.feed,
            examples=self.examples,
            steps=self.steps,
            batch=stage.data.batch,
            seed=stage.seed,
            flops=self.flops,
            evaluate=self.score if self.sets else None,
            evaluate_every=every.in_steps(rows=self.rows, batch=stage.data.batch)
            if every
            else None,
            best=evaluation.best,
            keep_best=lambda number, params: self.save_model(self.best / str(number), params, {}),
            drop_best=self.drop_best,
        )

    def flops(self, rows: int, length: int) -> float:
        """Returns the model's operations in a step, by the shape of this process's batch."""
        return self.objective.flops(rows * row_share(self.mesh)[1], length)

    def feed(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Returns this process's batches from a step on."""
        share, shares = row_share(self.mesh)
        return make_feed(
            self.material.datasets,
            self.stage.data,
            stores=self.material.stores,
            seed=self.stage.seed,
            first_step=first_step,
            steps=self.steps,
            process_index=share,
            process_count=shares,
            prefetch=self.context.run.prefetch,
            rows_multiple=row_places(self.mesh) * self.stage.compute.micro_batches,
        )

    def examples(self, step: int) -> list[dict[str, str | int]]:
        """Returns the examples in the batch of a step."""
        datasets, seed = self.material.datasets, self.stage.seed
        return examples_of(datasets, self.stage.data, seed=seed, step=step, steps=self.steps)

    def first_params(self) -> Any:
        """Returns the first weights on the devices; parameters.txt lists where each came from."""
        labels = self.material.labels
        params, origin = first_weights.make(
            self.stage, self.objective, self.params_at, labels=labels, tokenizer=self.tokenizer
        )
        if distributed.is_writer():
            table = sharding.table(params, self.params_at)
            files.write_text(self.context.folder / "parameters.txt", f"{origin}\n{table}")
        return params

    def evaluate(
        self, params: Any, sets: dict[str, ScoredSet], alive: Callable[[], None] = lambda: None
    ) -> dict[str, Evaluated]:
        """Returns the model's scores and predictions on every dataset, in batches of at least the
        configured size that divide over the mesh; calls `alive` for every batch.
        """
        share, shares = row_share(self.mesh)
        places = row_places(self.mesh)
        batch = -(-self.stage.evaluation.batch // places) * places
        found: dict[str, Evaluated] = {}
        for name, scored in sets.items():
            batches = evaluation_batches(
                scored.dataset,
                batch=batch,
                lengths=self.stage.data.lengths,
                teachers=scored.teachers,
                process_index=share,
                process_count=shares,
            )
            with jax.set_mesh(self.mesh):
                found[name] = evaluate(
                    self.evaluation_step,
                    params,
                    _reporting(batches, alive),
                    self.mesh,
                    terms=self.objective.terms,
                    task=self.material.task,
                )
        return found

    def score(self, params: Any, alive: Callable[[], None]) -> dict[str, float]:
        """Returns `set/metric` of the sets scored while training, and remembers them."""
        self.last.update(self.evaluate(params, self.sets, alive))
        return _named(self.last)

    def drop_best(self, number: int) -> None:
        """Removes a candidate for the best weights."""
        if distributed.is_writer():
            (self.best / str(number)).rmtree(missing_ok=True)

    def save_model(
        self, folder: epath.Path, params: Any, carried: Mapping[str, np.ndarray]
    ) -> None:
        """Writes weights, config and tokenizer as a Hugging Face folder, from one process."""
        on_host = layout.flatten(arrays.to_host(params))
        if not distributed.is_writer():
            return
        # What an earlier session left; of a bucket's folder, which is renamed file by file, a part.
        folder.rmtree(missing_ok=True)
        hf.save(
            folder,
            layout.nest({**on_host, **carried}),
            self.objective.config,
            labels=self.material.labels,
            task=self.material.task,
            longest=first_weights.longest_rows(self.stage, self.objective.config.positions),
            add=self.tokenizer.save,
        )


def _reporting(
    batches: Iterator[dict[str, np.ndarray]], alive: Callable[[], None]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches, and calls `alive` before each."""
    for batch in batches:
        alive()
        yield batch


def _named(scored: Mapping[str, Evaluated]) -> dict[str, float]:
    """Returns `set/metric` for every dataset."""
    return {
        f"{name}/{key}": value
        for name, found in scored.items()
        for key, value in found.metrics.items()
    }
