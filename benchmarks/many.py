"""Runs trained by one program, against the same runs one after the other.

python -m benchmarks.many [--runs=16] [--sizes=Tiny]

Fine-tunings of random weights and rows that differ in seed and learning rate, as a study's stages
do (`pd_jax.main --vmap`): batches of 32 rows of 128 tokens, dropout 0.1, AdamW with clipping,
float32. Compiling is not measured.
"""

import dataclasses
import sys
from collections.abc import Iterator

import jax

from benchmarks import material, ours, side_by_side
from benchmarks.side_by_side import OURS, Case, Peer
from pd_jax.allocation import keep_memory
from pd_jax.training import rng
from pd_jax.training.many import StackedRuns, make_many_step
from pd_jax.training.optim import make_schedule

BATCH = 32
JOB = "fine-tune"
STEPS = 2
"""Steps of every run in a repetition."""


def make_case(size: str, runs: int) -> Case:
    """Returns the comparison of every run's steps, by one program and one after the other."""
    objective = ours.make_objective(JOB, material.shape(size))
    trainer = ours.Trainer(objective)
    many = make_many_step(
        objective,
        ours.OPTIMIZER,
        mesh=trainer.mesh,
        state_sharding=trainer.places,
    )
    batches = [material.fixed_batch(BATCH, seed=seed) for seed in range(runs)]
    rates = [
        dataclasses.replace(ours.OPTIMIZER, learning_rate=1e-5 * (run + 1)) for run in range(runs)
    ]
    alone = [
        dataclasses.replace(trainer.step, schedule=make_schedule(rate, ours.STEPS))
        for rate in rates
    ]
    with jax.set_mesh(trainer.mesh):
        states = [trainer.first(rng.root_key(seed)) for seed in range(runs)]
        together = StackedRuns(many, alone, states, seeds=range(runs))

    def at_once() -> None:
        pending = None
        with jax.set_mesh(trainer.mesh):
            for _ in range(STEPS):
                read = together.step(batches)
                if pending is not None:
                    pending(0)
                pending = read
            jax.block_until_ready(together.state(0))

    # One state serves for all: differences between runs cost nothing where each runs on its own.
    work = float(BATCH * runs * STEPS)
    peers = (
        Peer(OURS, at_once, work),
        Peer("one after the other", lambda: trainer.train(batches * STEPS), work),
    )
    return Case(f"{runs} {size} fine-tunings", "examples", peers, {"batch": BATCH, "runs": runs})


def cases(sizes: list[str], runs: int) -> Iterator[Case]:
    """Yields the comparisons, one at a time."""
    keep_memory()
    for size in sizes:
        yield make_case(size, runs)


def _parser():
    parser = side_by_side.arguments(__doc__ or "", "many", repetitions=5)
    parser.add_argument("--sizes", default="Tiny")
    parser.add_argument("--runs", type=int, default=16)
    return parser


def main() -> int:
    """Returns 0 after the results are written."""
    options = _parser().parse_args()
    side_by_side.run(
        "Many runs at once",
        cases(options.sizes.split(","), options.runs),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("many"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
