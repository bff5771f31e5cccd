"""A whole chain on a few lines of text: vocabulary, records, teacher, labels and a student."""

import random

from etils import epath

from pd_jax import pipeline
from pd_jax.config import reading

NOUNS = ("film", "plot", "cast", "score", "scene", "ending", "camera", "story")
GOOD = ("lovely", "bright", "moving", "clever", "warm")
BAD = ("dull", "cold", "clumsy", "stale", "noisy")


def write_text(folder) -> None:
    """Writes a corpus, a transfer set, and labelled sets whose label is the adjective's."""
    rows = [
        (int(word in GOOD), f"the {noun} is {word} and the {other} too")
        for noun in NOUNS
        for other in NOUNS
        for word in GOOD + BAD
        if noun != other
    ]
    random.Random(0).shuffle(rows)
    folder.mkdir()
    documents = ["\n".join(text for _, text in rows[at : at + 8]) for at in range(0, len(rows), 8)]
    (folder / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    (folder / "transfer.txt").write_text("\n".join(text for _, text in rows[::2]) + "\n")
    for name, part in (("train", rows[1::4]), ("dev", rows[3::4])):
        lines = [f"{('bad', 'good')[label]}\t{text}" for label, text in part]
        (folder / f"{name}.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n")


def small_chain(text, **changes) -> dict:
    """Returns a config: vocabulary, records, teacher, labels, and a distilled student."""
    task = {"task": "classification", "labels": ("bad", "good")}
    stages = {
        "vocabulary": {
            "kind": "tokenizer",
            "source": {"path": str(text / "corpus.txt")},
            "vocab_size": 120,
        },
        "train": _records(text, "train.tsv", **task),
        "dev": _records(text, "dev.tsv", **task),
        "transfer": _records(text, "transfer.txt"),
        "teacher": _train("classify", {"records": "@train"}, evaluation={"sets": {"dev": "@dev"}}),
        "labels": {
            "kind": "label",
            "teacher": "@teacher",
            "records": "@transfer",
            "lengths": (16,),
            "batch": 64,
        },
        "student": _train(
            "distill",
            {"records": "@transfer", "logits": "@labels"},
            evaluation={
                "sets": {"dev": "@dev"},
                "final": {"unseen": "@transfer"},
                "logits": {"unseen": "@labels"},
            },
        ),
    }
    report = {
        "rows": (("Teacher", "teacher"), ("Student", "student")),
        "metrics": ("dev/accuracy",),
    }
    run = {"tensorboard": False, "log_steps": 10}
    return {"name": "chain", "stages": {**stages, **changes}, "report": report, "run": run}


def _records(text, name: str, **examples) -> dict:
    source = {"path": str(text / name)} | ({"label": "label"} if "task" in examples else {})
    return {
        "kind": "records",
        "source": source,
        "tokenizer": "@vocabulary",
        "max_length": 16,
        "examples": {"layout": "rows", **examples},
    }


def _train(kind: str, data: dict, **more) -> dict:
    return {
        "kind": "train",
        "model": {"size": "L1_H32", "heads": 2, "positions": 32, "dropout": 0.0},
        "objective": {"kind": kind},
        "data": {"batch": 32, "lengths": (16,), **data},
        "length": {"steps": 60},
        "optimizer": {"learning_rate": 1e-2},
        **more,
    }


def run(folder, config, **options) -> list[str]:
    """Runs a config in the folder's `work`, and returns its output."""
    printed: list[str] = []
    pipeline.run(
        reading.pipeline_from(config), epath.Path(folder / "work"), say=printed.append, **options
    )
    return printed
