"""Workdirs as a run of the five methods leaves them, with curves of plausible shape."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

VERSIONS = {
    "python": "3.11.9",
    "jax": "0.10.2",
    "flax": "0.12.8",
    "pd_jax": "0.1.0",
    "commit": "0123abc",
    "device_kind": "cpu",
    "devices": 1,
}
PARAMETERS = {
    "L2_H128": 4_386_178,
    "L4_H256": 11_171_074,
    "L4_H512": 28_764_674,
    "L6_H256": 12_750_000,
}
COMMAND = "python -m pd_jax.main --config=configs/quickstart.py --workdir=runs/quickstart"


@dataclasses.dataclass
class Workdir:
    """Writes stage folders and a pipeline file under `root`, as the stage contract says."""

    root: pathlib.Path
    name: str = "quickstart"
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    status: dict[str, str] = dataclasses.field(default_factory=dict)

    def folder(self, stage: str) -> pathlib.Path:
        return self.root / self.stages[stage]

    def begin(self, stage: str, config: dict[str, Any], status: str = "done") -> pathlib.Path:
        self.stages[stage] = f"stages/{stage}-{len(self.stages):08x}"
        self.status[stage] = status
        folder = self.folder(stage)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        (folder / "versions.json").write_text(json.dumps(VERSIONS))
        return folder

    def finish(self, stage: str, kind: str, seconds: float, **more: Any) -> None:
        done = {"stage": stage, "kind": kind, "fingerprint": "f" * 32, "seconds": seconds, **more}
        (self.folder(stage) / "done.json").write_text(json.dumps(done))

    def plain(self, stage: str, kind: str, seconds: float, needs: tuple[str, ...] = ()) -> None:
        self.begin(stage, {"kind": kind, "source": {"path": [f"@{need}" for need in needs]}})
        self.finish(stage, kind, seconds, inputs=dict.fromkeys(needs, "f" * 32))

    def train(
        self,
        stage: str,
        *,
        objective: str,
        needs: tuple[str, ...],
        final: float | None,
        loss: tuple[float, float],
        steps: int,
        seconds: float,
        size: str = "L2_H128",
        rows: int = 1821,
        batch: int = 64,
        seed: int = 0,
    ) -> None:
        """A training stage that reaches the accuracy `final` (None: it has no evaluation set)."""
        config = {
            "kind": "train",
            "model": {"size": size, "dropout": 0.1},
            "objective": {"kind": objective},
            "data": {
                "records": f"@{needs[0]}",
                "logits": [f"@{need}" for need in needs[1:]],
                "batch": batch,
                "lengths": [32, 64],
            },
            "length": {"steps": steps},
            "evaluation": {"sets": {"dev": "@labelled"}, "logits": {"dev": "@dev_labels"}},
        }
        folder = self.begin(stage, config)
        write_history(
            folder, final=final, loss=loss, steps=steps, seconds=seconds, batch=batch, seed=seed
        )
        write_spans(folder, steps=steps, seconds=seconds)
        metrics = {"train/loss": loss[1]}
        if final is not None:
            metrics |= {"dev/accuracy": final, "dev/loss": loss[1] * 1.1, "dev/rows": 872}
            metrics |= {"test/accuracy": final - 0.008, "test/rows": rows}
        self.finish(
            stage,
            "train",
            seconds,
            steps=steps,
            examples=steps * batch,
            parameters=PARAMETERS[size],
            megabytes=PARAMETERS[size] * 4 / 1e6,
            metrics=metrics,
            inputs=dict.fromkeys(needs, "f" * 32),
        )

    def write(
        self,
        rows: dict[str, str],
        metrics: tuple[str, ...] = ("test/accuracy", "dev/accuracy"),
        **report: Any,
    ) -> pathlib.Path:
        content = {
            "name": self.name,
            "config": {},
            "stages": self.stages,
            "report": {
                "title": "Five ways to train a small model",
                "rows": rows,
                "metrics": metrics,
                **report,
            },
            "status": self.status,
            "command": COMMAND,
        }
        path = self.root / "pipelines" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path


def write_history(
    folder: pathlib.Path,
    *,
    final: float | None,
    loss: tuple[float, float],
    steps: int,
    seconds: float,
    batch: int,
    seed: int,
) -> None:
    """Writes metrics.jsonl: a noisy falling loss, and a rising accuracy at eight steps."""
    generator = np.random.default_rng(seed)
    lines = []
    for step in np.unique(np.linspace(1, steps, min(steps, 400)).astype(int)).tolist():
        share = 1 - math.exp(-4 * step / steps)
        value = loss[0] + (loss[1] - loss[0]) * share + generator.normal() * 0.02 * loss[0]
        lines.append(
            {
                "step": step,
                "examples": step * batch,
                "seconds": seconds * step / steps,
                "train/loss": max(0.01, value),
                "train/learning_rate": 1e-3 * (1 - step / steps),
                "train/gradient_norm": float(1 + generator.random()),
            }
        )
    for step in (
        np.unique(np.ceil(np.linspace(steps / 8, steps, 8)).astype(int)).tolist()
        if final is not None
        else []
    ):
        accuracy = 0.5 + (final - 0.5) * (1 - math.exp(-3 * step / steps)) / (1 - math.exp(-3))
        lines.append(
            {
                "step": step,
                "dev/accuracy": accuracy,
                "dev/loss": 1 - accuracy / 1.5,
                "dev/rows": 872,
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_spans(folder: pathlib.Path, *, steps: int, seconds: float) -> None:
    shares = {"compile": 0.08, "step": 0.74, "evaluate": 0.1, "save": 0.03, "wait for data": 0.02}
    lines = [
        {"name": name, "seconds": seconds * share, "step": steps} for name, share in shares.items()
    ]
    (folder / "spans.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def five_methods(root: pathlib.Path) -> Workdir:
    """The quick start's chain, all done."""
    workdir = Workdir(root)
    workdir.plain("text", "synthetic", 1.4)
    workdir.plain("vocabulary", "tokenizer", 2.2, ("text",))
    workdir.plain("corpus", "records", 3.1, ("text", "vocabulary"))
    workdir.plain("labelled", "records", 0.6, ("text", "vocabulary"))
    workdir.plain("transfer", "records", 1.9, ("text", "vocabulary"))
    workdir.train(
        "pretrain",
        objective="mlm",
        needs=("corpus",),
        final=None,
        loss=(7.1, 2.9),
        steps=3000,
        seconds=131,
    )
    workdir.train(
        "teacher",
        objective="classify",
        needs=("labelled", "pretrain"),
        final=0.942,
        loss=(0.7, 0.12),
        steps=400,
        seconds=44,
        size="L6_H256",
        seed=1,
    )
    workdir.plain("logits", "label", 6.5, ("teacher", "transfer"))
    workdir.train(
        "basic",
        objective="classify",
        needs=("labelled",),
        final=0.781,
        loss=(0.7, 0.3),
        steps=300,
        seconds=9,
        seed=2,
    )
    workdir.train(
        "distillation",
        objective="distill",
        needs=("transfer", "logits"),
        final=0.846,
        loss=(0.7, 0.35),
        steps=900,
        seconds=26,
        seed=3,
    )
    workdir.train(
        "pf",
        objective="classify",
        needs=("labelled", "pretrain"),
        final=0.859,
        loss=(0.68, 0.22),
        steps=300,
        seconds=9.5,
        seed=4,
    )
    workdir.train(
        "pd",
        objective="distill",
        needs=("transfer", "logits", "pretrain"),
        final=0.907,
        loss=(0.66, 0.26),
        steps=900,
        seconds=27,
        seed=5,
    )
    workdir.train(
        "pd_f",
        objective="classify",
        needs=("labelled", "pd"),
        final=0.913,
        loss=(0.3, 0.15),
        steps=300,
        seconds=9.2,
        seed=6,
    )
    return workdir


ROWS = {
    "basic": "basic",
    "distillation": "distillation",
    "PF": "pf",
    "PD": "pd",
    "PD-F": "pd_f",
    "teacher": "teacher",
}


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> Workdir:
    """The five methods and their teacher, finished, with the pipeline's file written."""
    made = five_methods(tmp_path / "work")
    made.write(ROWS)
    return made


@pytest.fixture
def empty(tmp_path: pathlib.Path) -> Workdir:
    """A workdir without a stage, to be filled by the test."""
    return Workdir(tmp_path / "work")
