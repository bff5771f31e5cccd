"""The losses of 20 steps of each job, and a model's scores, on any mesh and any processes.

As a program, `python -m tests.multihost.same_losses FSDP`, it joins the other processes and prints
the losses of both jobs, and the scores, as JSON.
"""

import json
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax import compilation
from pd_jax import config as config_lib
from pd_jax.evaluation.evaluate import evaluate
from pd_jax.models.sizes import BertConfig
from pd_jax.parallel import distributed, sharding
from pd_jax.parallel.mesh import make_mesh, row_share
from pd_jax.stages.declared import vocabulary_of
from pd_jax.stages.objectives import Facts, make_objective
from pd_jax.training import arrays, rng
from pd_jax.training.state import TrainState
from pd_jax.training.step import first_state, make_evaluation_step, make_train_step

STEPS, ROWS, LENGTH, VOCABULARY = 20, 16, 12, 64
JOBS = {"mlm": {"kind": "mlm"}, "distill": {"kind": "distill", "hard_weight": 0.5}}
"""With a share of labels, distillation holds fine-tuning's loss."""
SHAPE = BertConfig(
    VOCABULARY, layers=1, hidden=32, heads=2, intermediate=64, positions=LENGTH, dropout=0.1
)
FACTS = Facts("none", vocabulary_of(VOCABULARY), "classification", ("few", "many"), labelled=True)


def batch(step: int) -> dict[str, np.ndarray]:
    """Returns the global batch of a step; every process makes the same one."""
    generator = np.random.default_rng(step)
    lengths = generator.integers(4, LENGTH + 1, (ROWS, 1))
    mask = (np.arange(LENGTH) < lengths).astype(np.int32)
    ids = generator.integers(5, VOCABULARY, (ROWS, LENGTH)).astype(np.int32) * mask
    return {
        "input_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "input_mask": mask,
        "label": (ids[:, 1] > VOCABULARY // 2).astype(np.int32),
        "teacher_logits": generator.normal(size=(ROWS, 2)).astype(np.float32),
        "weight": np.ones(ROWS, np.float32),
    }


def local_batches(count: int, mesh: Mesh) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the first so many batches."""
    index, processes = row_share(mesh)
    mine = slice(index * ROWS // processes, (index + 1) * ROWS // processes)
    for number in range(count):
        yield {name: values[mine] for name, values in batch(number).items()}


def stage_of(job: str) -> config_lib.TrainStage:
    """Returns the stage of a job."""
    logits = "none" if job == "distill" else None
    return config_lib.TrainStage(
        objective=JOBS[job],
        data=config_lib.Data(records="none", logits=logits, batch=ROWS, lengths=(LENGTH,)),
        length=config_lib.Length(steps=STEPS),
        optimizer=config_lib.Optimizer(learning_rate=1e-3),
    )


def losses(job: str, mesh: Mesh) -> list[float]:
    """Returns the mean loss of each step of a job on a mesh."""
    stage = stage_of(job)
    objective = make_objective(stage, SHAPE, FACTS)
    root = rng.root_key(0)

    def first(key: jax.Array) -> TrainState:
        return first_state(objective.init(key))

    shapes = jax.eval_shape(first, root)
    places = sharding.assign(shapes, sharding.RULES, mesh)
    found = []
    with jax.set_mesh(mesh):
        state = jax.jit(first, out_shardings=places)(root)
        step = make_train_step(
            objective, stage.optimizer, steps=STEPS, mesh=mesh, state_sharding=places
        )
        for rows in local_batches(STEPS, mesh):
            state, sums = step(state, sharding.put_batch(rows, mesh), root)
            total, weight = jax.device_get(sums[next(iter(objective.terms))])
            found.append(float(total / weight))
    return found


def scores(mesh: Mesh) -> dict[str, float]:
    """Returns what a model at random scores on three batches, against labels and a teacher."""
    objective = make_objective(stage_of("distill"), SHAPE, FACTS)
    root = rng.root_key(0)
    places = sharding.assign(jax.eval_shape(objective.init, root), sharding.RULES, mesh)
    index, processes = row_share(mesh)
    first = np.arange(ROWS)[index * ROWS // processes : (index + 1) * ROWS // processes]
    batches = (
        {**rows, "row": first + number * ROWS} for number, rows in enumerate(local_batches(3, mesh))
    )
    with jax.set_mesh(mesh):
        params = jax.jit(objective.init, out_shardings=places)(root)
        params = arrays.place(params, places)
        step = make_evaluation_step(objective, mesh=mesh, param_sharding=places)
        task = FACTS.task
        return evaluate(step, params, batches, mesh, terms=objective.terms, task=task).metrics


if __name__ == "__main__":
    distributed.initialise("on")
    compilation.use_cache()
    shape = config_lib.Mesh(data=-1, fsdp=int(sys.argv[1]))
    everywhere = make_mesh(shape)
    found = {job: losses(job, everywhere) for job in JOBS}
    print(json.dumps({**found, "scores": scores(everywhere)}))
