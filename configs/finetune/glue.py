"""A task of GLUE: fine-tune a model on it and score the development set.

Run:    python -m pd_jax.main --config=configs/finetune/glue.py:task=rte --workdir=runs/rte
        python -m pd_jax.main --workdir=runs/mrpc \
            --config=configs/finetune/glue.py:task=mrpc,data=glue,size=L4_H256,init=models/mini
Args:   task=cola|sst2|mrpc|stsb|qqp|mnli|qnli|rte|wnli
        data=FOLDER (GLUE's zips as they unpack: FOLDER/CoLA/train.tsv, ...), data=tfds (prepared
        under TFDS_DATA_DIR), or data=development (RTE, SST-2 and a part of MNLI in $PD_JAX_DATA)
        size=L4_H256 init=FOLDER (a pre-trained model with its tokenizer; else random weights)
        vocabulary=FILE (without init; default $PD_JAX_DATA/vocab/vocab.txt)
        batch=32 rate=5e-5 epochs=4 length=128 seed=0 smoke
        buckets=False pads every row to `length`, as `--vmap` requires
Grid:   configs/study/glue.py searches batches and rates.
Submit: python -m pd_jax.tools.glue --help
"""

import dataclasses
import os

from configs import common


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: its folder, its columns, its labels in the order of their numbers, its metrics.

    `released` names the columns of the zip's files, `prepared` those of TFDS, as text, pair and
    label. A task without labels is a regression. `sets` are the evaluation sets: our name, the file
    in the zip, and the TFDS split.
    """

    folder: str
    released: tuple[str, ...]
    prepared: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    sets: tuple[tuple[str, str, str], ...] = (("dev", "dev", "validation"),)
    source: tuple[tuple[str, object], ...] = ()


_PAIR = ("sentence1", "sentence2", "label")
_ENTAILS = ("entailment", "not_entailment")

TASKS = {
    "cola": Task(
        "CoLA",
        ("sentence", "label"),
        ("sentence", "label"),
        ("unacceptable", "acceptable"),
        ("dev/matthews", "dev/accuracy"),
        # Its training and development files have no header; column three is the linguists' mark.
        source=(("columns", ("source", "label", "mark", "sentence")),),
    ),
    "sst2": Task(
        "SST-2",
        ("sentence", "label"),
        ("sentence", "label"),
        ("negative", "positive"),
        ("dev/accuracy",),
    ),
    "mrpc": Task(
        "MRPC",
        ("#1 String", "#2 String", "Quality"),
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("dev/f1", "dev/accuracy"),
    ),
    "stsb": Task(
        "STS-B",
        ("sentence1", "sentence2", "score"),
        _PAIR,
        (),
        ("dev/pearson", "dev/spearman"),
    ),
    "qqp": Task(
        "QQP",
        ("question1", "question2", "is_duplicate"),
        ("question1", "question2", "label"),
        ("not_duplicate", "duplicate"),
        ("dev/f1", "dev/accuracy"),
        # Line breaks inside questions split a few rows of the released file.
        source=(("broken_rows", "skip"),),
    ),
    "mnli": Task(
        "MNLI",
        ("sentence1", "sentence2", "gold_label"),
        ("premise", "hypothesis", "label"),
        ("entailment", "neutral", "contradiction"),
        ("matched/accuracy", "mismatched/accuracy"),
        sets=(
            ("matched", "dev_matched", "validation_matched"),
            ("mismatched", "dev_mismatched", "validation_mismatched"),
        ),
    ),
    "qnli": Task(
        "QNLI",
        ("question", "sentence", "label"),
        ("question", "sentence", "label"),
        _ENTAILS,
        ("dev/accuracy",),
    ),
    "rte": Task("RTE", _PAIR, _PAIR, _ENTAILS, ("dev/accuracy",)),
    "wnli": Task("WNLI", _PAIR, _PAIR, ("not_entailment", "entailment"), ("dev/accuracy",)),
}
DEVELOPMENT = {"sst2": "sst2", "rte": "rte", "mnli": "mnli_subset"}
"""Tasks in the development data, and their folders there."""


def get_config(arg: str = ""):
    """Returns the pipeline: records of the task's sets, and one fine-tuned model."""
    args = arguments(arg, batch=32, rate=5e-5)
    sets = records(args)
    model = tuned(args, sets, batch=args["batch"], rate=args["rate"], seed=args["seed"])
    size = model["model"]["size"]
    return common.locked(
        {
            "name": args["task"],
            "stages": {**sets, "model": model},
            "report": {
                "title": f"{TASKS[args['task']].folder} with {size}",
                "rows": ((size, "model"),),
                "metrics": metrics(args, sets),
            },
        }
    )


def arguments(arg: str, **more) -> dict:
    """Returns the arguments of a GLUE config, including its own."""
    defaults = {
        "task": "rte",
        "data": "development",
        "size": "L4_H256",
        "init": "",
        "vocabulary": "",
        "epochs": 4.0,
        "length": 128,
        "buckets": True,
        "seed": 0,
        "smoke": False,
    }
    args = common.parse(arg, **defaults, **more)
    if args["task"] not in TASKS:
        raise ValueError(f"task {args['task']!r} is unknown; GLUE's are {', '.join(TASKS)}")
    return args


def tuned(args: dict, sets: dict, *, batch: int, rate: float, seed: int) -> dict:
    """Returns the stage that fine-tunes on the task."""
    length = args["length"]
    shorter = (32, 64, 96) if args["buckets"] and not args["smoke"] else ()
    return common.finetune(
        common.model("L2_H128" if args["smoke"] else args["size"]),
        common.data("@train", batch, (*(size for size in shorter if size < length), length)),
        {"steps": 4} if args["smoke"] else {"epochs": args["epochs"]},
        common.adamw(rate),
        init=common.start_from(args["init"]) if args["init"] else {},
        evaluation={
            "sets": {name: f"@{name}" for name in sets if name != "train"},
            "every": {"epochs": 1.0},
        },
        seed=seed,
    )


def records(args: dict) -> dict:
    """Returns the stages that make the training set and the evaluation sets."""
    task = TASKS[args["task"]]
    vocabulary = (
        args["init"]
        or args["vocabulary"]
        or os.path.join(common.data_folder(), "vocab", "vocab.txt")
    )
    rows = {"rows": 64} if args["smoke"] else {}

    def made(file: str, split: str) -> dict:
        source = {**_source(args, task, file, split), **rows}
        if not task.labels:
            return common.rated(source, vocabulary, args["length"])
        return common.labelled(source, vocabulary, args["length"], task.labels)

    sets = task.sets if args["data"] != "development" else (("dev", "dev", ""),)
    return {
        "train": made("train", "train"),
        **{name: made(file, split) for name, file, split in sets},
    }


def _source(args: dict, task: Task, file: str, split: str) -> dict:
    if args["data"] == "tfds":
        return {"path": f"tfds:glue/{args['task']}:{split}", **_named(task.prepared)}
    if args["data"] != "development":
        path = os.path.join(args["data"], task.folder, f"{file}.tsv")
        return {"path": path, **_named(task.released), **dict(task.source)}
    if args["task"] not in DEVELOPMENT:
        raise ValueError(
            f"{task.folder} is not in the development data; pass the folder of GLUE's zips as "
            "data=FOLDER, or data=tfds"
        )
    path = os.path.join(common.data_folder(), "tasks", DEVELOPMENT[args["task"]], f"{file}.tsv")
    columns = ("text", "label") if len(task.released) == 2 else ("text_a", "text_b", "label")
    return {"path": path, **_named(columns)}


def _named(columns: tuple[str, ...]) -> dict:
    text, *pair, label = columns
    return {"text": text, "label": label, **({"pair": pair[0]} if pair else {})}


def metrics(args: dict, sets: dict) -> tuple[str, ...]:
    """Returns the task's metrics; the development data has one set where MNLI has two."""
    found = TASKS[args["task"]].metrics
    known = tuple(name for name in found if name.split("/")[0] in sets)
    return known or ("dev/accuracy",)
