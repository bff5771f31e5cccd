"""A study's workdir as a run leaves it: methods x sizes x seeds, with predictions row by row."""

import json
import pathlib
from typing import Any

import numpy as np
from etils import epath

from pd_jax.evaluation import predictions
from pd_jax.evaluation.predictions import Predictions

SIZES = {"L2_H128": 0.0, "L4_H256": 0.03}
METHODS = {"basic": 0.71, "distillation": 0.77, "PF": 0.79, "PD": 0.84, "PD-F": 0.85}
ROWS = {"dev": 400, "test": 900, "unseen": 1000}
MEASURES = (
    {"quantity": "accuracy", "sets": ["dev", "test"]},
    {"quantity": "agreement", "sets": ["unseen"]},
    {"quantity": "kl", "sets": ["unseen"]},
)


def claim(first: str, second: str, **more: Any) -> dict[str, Any]:
    """Returns the claim that a method is better than another, at every size."""
    contrasts = [
        {
            "at": size,
            "terms": [
                {"weight": 1.0, "axes": {"method": first, "size": size}},
                {"weight": -1.0, "axes": {"method": second, "size": size}},
            ],
        }
        for size in SIZES
    ]
    return {"text": f"{first} > {second}", "contrasts": contrasts, **more}


CLAIMS = (claim("PD", "PF"), claim("basic", "PF"), claim("PD-F", "PD"))
FIGURES = (
    {"title": "Depth and width", "x": "layers", "panels": "hidden", "scale": "linear",
     "paper": "SST-2 by depth and width"},
    {"title": "By size", "x": "size", "paper": "Figure 5"},
)  # fmt: skip


def scored(right: float, *, seed: int) -> dict[str, Predictions]:
    """Returns predictions of which about a share is right, drawn by seed over shared rows."""
    found = {}
    for name, rows in ROWS.items():
        shared, own = np.random.default_rng(7), np.random.default_rng(seed)
        truth, hard = shared.integers(0, 2, rows), shared.random(rows)
        hit = hard * 0.9 + own.random(rows) * 0.1 < right
        sides = np.where(hit, truth, 1 - truth)
        logits = np.where(np.eye(2)[sides] > 0, 1.0, -1.0) * (0.5 + own.random((rows, 1)))
        known = np.where(np.eye(2)[truth] > 0, 1.5, -1.5)
        given = {"label": truth} if name != "unseen" else {"teacher": known.astype(np.float32)}
        found[name] = Predictions(
            logits.astype(np.float32), given.get("label"), given.get("teacher")
        )
    return found


def fill(workdir: Any, *, seeds: int = 3) -> dict[str, Any]:
    """Writes the stages of a study into a `Workdir`, and returns its config."""
    workdir.name = "sizes"
    workdir.plain("corpus", "records", 31.0)
    cells = [{"stage": "teacher", "axes": {"method": "teacher", "seed": 0}}]
    add(workdir, "teacher", 0.88, size="L6_H256", seed=99)
    for number, (size, more) in enumerate(SIZES.items()):
        for method, right in METHODS.items():
            for seed in range(seeds):
                name = f"{method.lower()}-{size}-{seed}"
                gain = 0.0 if method == "basic" else more
                add(workdir, name, right + gain + 0.004 * seed, size=size, seed=seed + 10 * number)
                cells.append(
                    {"stage": name, "axes": {"method": method, "size": size, "seed": seed}}
                )
    return {
        "cells": cells,
        "measures": list(MEASURES),
        "claims": list(CLAIMS),
        "figures": list(FIGURES),
        "note": "Made up for a test.",
    }


def add(workdir: Any, name: str, right: float, *, size: str, seed: int) -> None:
    """Writes one trained stage whose metrics are those of its predictions."""
    workdir.train(
        name, objective="distill", needs=("corpus",), final=right, loss=(0.7, 0.4), steps=300,
        seconds=80.0 + seed, size=size, seed=seed,
    )  # fmt: skip
    rescore(workdir, name, scored(right, seed=seed), task="classification")


def rescore(workdir: Any, name: str, found: dict[str, Predictions], *, task: str) -> None:
    """Gives a stage predictions, and as metrics the scores that they have."""
    predictions.write(epath.Path(workdir.folder(name)), found)
    done = json.loads((workdir.folder(name) / "done.json").read_text())
    done["metrics"] = {"train/loss": 0.4}
    for key, one in found.items():
        done["metrics"] |= {f"{key}/{k}": v for k, v in one.scores(task).items()}
        done["metrics"][f"{key}/rows"] = len(one.logits)
    (workdir.folder(name) / "done.json").write_text(json.dumps(done))


def several_labels(right: float) -> dict[str, Predictions]:
    """Returns predictions of three labels a row, the first of which is right for about a share of
    rows, as the others and the teacher always are.
    """
    found = {}
    for name, rows in ROWS.items():
        shared = np.random.default_rng(7)
        truth, hard = shared.integers(0, 2, (rows, 3)), shared.random(rows)
        teacher = (truth * np.array([1.0, 2.0, 3.0]) - 0.5).astype(np.float32)
        logits = teacher.copy()
        logits[hard > right, 0] *= -1
        found[name] = Predictions(logits, truth if name != "unseen" else None, teacher)
    return found


def diverge(workdir: Any, name: str) -> None:
    """Lets a stage have left the finite numbers: it has no result."""
    (workdir.folder(name) / "done.json").unlink()
    workdir.status[name] = "failed"
    path = workdir.folder(name) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 301, "train/loss": null}\n')


def write(workdir: Any, study: dict[str, Any]) -> pathlib.Path:
    """Writes the pipeline's file, with the study in its config."""
    path = workdir.write({}, title="Five ways to students of two sizes", reference="SST-2")
    content = json.loads(path.read_text())
    content["config"] = {"study": study}
    path.write_text(json.dumps(content))
    return path
