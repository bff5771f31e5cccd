"""This project's side of a benchmark: the step, feed and objectives that training stages use."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from benchmarks import material
from pd_jax import config as config_lib
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import make_classify
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.objectives.objective import Objective
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh
from pd_jax.training import rng
from pd_jax.training.step import first_state, make_train_step

OPTIMIZER = config_lib.Optimizer(learning_rate=1e-4)
STEPS = 100_000
"""Length of the learning rate's schedule: longer than any benchmark runs."""


def make_objective(job: str, shape: BertConfig) -> Objective:
    """Returns the objective of `mlm`, `distil` or `fine-tune`."""
    if job == "mlm":
        vocabulary = Vocabulary(
            material.VOCABULARY, material.PAD, material.CLS, material.SEP, material.MASK, None
        )
        return make_mlm(config_lib.MaskedLanguageModel(), shape, vocabulary)
    task, labels = "classification", material.LABELS
    if job == "distil":
        return make_distill(config_lib.Distill(), shape, task=task, labels=labels, has_labels=False)
    return make_classify(shape, task=task, labels=labels)


class Trainer:
    """A state and the jitted step that a training stage would run."""

    def __init__(self, objective: Objective):
        def first(key: jax.Array) -> Any:
            return first_state(objective.init(key))

        self.objective = objective
        self.mesh = make_mesh(config_lib.Mesh())
        with jax.set_mesh(self.mesh):  # a key is then made on all of its devices
            self.root = rng.root_key(0)
        self.places = sharding.assign(jax.eval_shape(first, self.root), sharding.RULES, self.mesh)
        self.step = make_train_step(
            objective,
            OPTIMIZER,
            steps=STEPS,
            mesh=self.mesh,
            state_sharding=self.places,
        )
        with jax.set_mesh(self.mesh):
            self.first = jax.jit(first, out_shardings=self.places)
            self.state = self.first(self.root)

    def train(self, batches: Iterable[dict[str, np.ndarray]]) -> None:
        """Takes one step per batch, like the loop: a step's sums are read during the next."""
        pending = None
        with jax.set_mesh(self.mesh):
            for batch in batches:
                placed = sharding.put_batch(batch, self.mesh)
                self.state, sums = self.step(self.state, placed, self.root)
                if pending is not None:
                    jax.device_get(pending)
                pending = sums
            jax.block_until_ready(self.state)
