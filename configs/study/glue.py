"""The grid over which google-research/bert fine-tunes its compact models on GLUE.

Five batch sizes by four learning rates, four epochs each; its README takes the best of them on the
development set for each task.

Run:    python -m pd_jax.main --config=configs/study/glue.py:task=rte --workdir=runs/grid --jobs=2
        python -m pd_jax.main --jobs=2 --workdir=runs/grid \
            --config=configs/study/glue.py:task=mrpc,data=glue,size=L4_H256,init=models/mini,seeds=3
        python -m pd_jax.main --vmap=8 --workdir=runs/grid \
            --config=configs/study/glue.py:task=rte,seeds=5,buckets=False
Args:   those of configs/finetune/glue.py (task data size init vocabulary epochs length buckets),
        seeds=1 smoke; `seed` is the first seed
Time:   run with --estimate.
"""

from configs import common
from configs.finetune import glue

BATCHES = (8, 16, 32, 64, 128)
RATES = (3e-4, 1e-4, 5e-5, 3e-5)


def get_config(arg: str = ""):
    """Returns the study."""
    args = glue.arguments(arg, seeds=1)
    batches, rates = (BATCHES[:2], RATES[:2]) if args["smoke"] else (BATCHES, RATES)
    sets = glue.records(args)
    stages, cells = {}, []
    for batch in batches:
        for rate in rates:
            for seed in range(args["seed"], args["seed"] + args["seeds"]):
                written = f"{rate:.0e}".replace("e-0", "e_")
                name = f"batch_{batch}_rate_{written}_seed_{seed}"
                stages[name] = glue.tuned(args, sets, batch=batch, rate=rate, seed=seed)
                axes = {"batch": batch, "rate": rate, "seed": seed}
                cells.append({"stage": name, "axes": axes})
    folder = glue.TASKS[args["task"]].folder
    measured = (metric.split("/") for metric in glue.metrics(args, sets))
    study = {
        "cells": tuple(cells),
        "measures": tuple({"quantity": quantity, "sets": (name,)} for name, quantity in measured),
        "claims": (),
        "figures": (
            {"title": f"{folder} by learning rate", "x": "rate", "series": "batch", "scale": "log"},
        ),
        "note": "The best of a grid on the set it is chosen by is a little better than it would be "
        "on another.",
    }
    return common.locked(
        {
            "name": f"glue_{args['task']}",
            "stages": {**sets, **stages},
            "study": study,
            "report": {"title": f"{folder}: five batch sizes by four learning rates"},
            "run": {"tensorboard": False, "keep_checkpoints": 1},
        }
    )
