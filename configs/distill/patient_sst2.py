"""Patient distillation (Sun et al. 2019) on SST-2, beside plain distillation and fine-tuning.

Run:    python -m pd_jax.main --config=configs/distill/patient_sst2.py --workdir=runs/patient
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   budget=cpu|gpu size=L2_H128 teacher=L4_H128 pretrained= rate=0 teacher_rate=0 seed=0 smoke
        `rate` is every student's peak learning rate, `teacher_rate` the teacher's; 0 takes the
        budget's.
        The models of the paper: :budget=gpu,size=L6_H768,teacher=L12_H768,pretrained=FOLDER
        (a BERT-Base's with its tokenizer).
Time:   cpu: 12 minutes on two busy cores (8.6 CPU minutes).
Found:  cpu budget, one seed, dev/test accuracy: teacher 78.3/78.4, fine-tuning 79.6/79.7,
        distillation 79.5/80.1, patient skip 79.7/80.0, patient last 79.1/79.7; agreement with the
        teacher on dev 92.3, 94.0, 94.3, 94.4: a teacher of 20,000 rows is followed, but not
        surpassed by more than chance.

Every student starts with the first layers of the model that the teacher started from (without
`pretrained`, of the teacher itself), and learns from the same labelled rows.

budget=gpu has the paper's batch, epochs, length, warm-up and teacher's rate, and the middle one of
the students' rates that it searched (5e-5, 2e-5, 1e-5). These are for pre-trained weights: a
teacher that starts from random ones needs a higher `teacher_rate`. Of the rest of the paper's grid
(T of 5, 10, 20; a share of hard labels of 0.8, 0.5, 0.3; patience of 10, 100, 500, 1000) every
budget has 5, 0.5 and 100; --config.stages.patient_skip.objective.patience=500 takes another.
"""

import os

from configs import common

SMALL = {"batch": 64, "lengths": (16, 32, 64), "teacher_rate": 3e-4, "rate": 3e-4}
"""How models as small as the default ones are trained."""

BUDGETS = {
    # First rows of SST-2 (in random order), epochs over them for the teacher and each student,
    # examples per step, padded lengths, peak learning rates.
    "smoke": {"rows": 256, "teacher": 1.0, "student": 1.0, **SMALL},
    "cpu": {"rows": 20_000, "teacher": 1.5, "student": 1.5, **SMALL},
    "gpu": {
        "rows": None,  # all
        "teacher": 4.0,
        "student": 4.0,
        "batch": 32,
        "lengths": (16, 32, 64, 128),
        "teacher_rate": 2e-5,
        "rate": 2e-5,
    },
}
SOFT = {"temperature": 5.0, "hard_weight": 0.5}
PATIENT = {"kind": "patient", **SOFT, "patience": 100.0}
STUDENTS = {
    "finetuned": {},
    "distilled": {"kind": "distill", **SOFT},
    "patient_skip": {**PATIENT, "layers": "skip"},
    "patient_last": {**PATIENT, "layers": "last"},
}
ROWS = (
    ("Teacher", "teacher"),
    ("Fine-tuning", "finetuned"),
    ("Distillation, T = 5", "distilled"),
    ("Patient distillation, skip", "patient_skip"),
    ("Patient distillation, last", "patient_last"),
)


def get_config(arg: str = ""):
    """Returns the pipeline: records, teacher, its logits and states, four students."""
    args = common.teacher_and_student(arg, BUDGETS, rate=0.0, teacher_rate=0.0)
    budget = BUDGETS[args["budget"]]
    rates = {name: args[name] or budget[name] for name in ("rate", "teacher_rate")}
    student, teacher = (common.fresh(args[size]) for size in ("size", "teacher"))
    lengths = budget["lengths"]
    data = common.data("@train", budget["batch"], lengths)
    evaluation = {"sets": {"dev": "@dev"}, "final": {"test": "@test"}, "batch": 256}
    with_logits = {**evaluation, "logits": {"dev": "@dev_labels"}}
    begin = common.start_from(args["pretrained"] or "@teacher", layers="bottom")
    layers, _ = common.shape(args["teacher"])
    held = tuple(range(layers - 1))
    stages = {
        **_records(common.data_folder(), budget, args["pretrained"]),
        "teacher": common.finetune(
            teacher,
            data,
            {"epochs": budget["teacher"]},
            common.adamw(rates["teacher_rate"]),
            evaluation=evaluation,
            seed=args["seed"],
            **({"init": common.start_from(args["pretrained"])} if args["pretrained"] else {}),
        ),
        "labels": common.label("@teacher", "@train", lengths, states=held),
        "dev_labels": common.label("@teacher", "@dev", lengths, states=held),
    }
    for name, objective in STUDENTS.items():
        make = common.distill if objective else common.finetune
        stages[name] = make(
            student,
            {**data, "logits": "@labels"} if objective else data,
            {"epochs": budget["student"]},
            common.adamw(rates["rate"]),
            objective=objective,
            init=begin,
            evaluation=with_logits,
            seed=args["seed"],
        )
    return common.locked(
        {
            "name": "patient_sst2",
            "stages": stages,
            "report": {
                "title": f"Patient distillation of a {args['size']} for SST-2",
                "rows": ROWS,
                "metrics": ("dev/accuracy", "test/accuracy", "dev/agreement", "dev/kl"),
            },
            "run": {"log_steps": 100},
        }
    )


def _records(folder: str, budget: dict, pretrained: str) -> dict:
    vocabulary = pretrained or os.path.join(folder, "vocab", "vocab.txt")

    def labelled(name: str, **changes) -> dict:
        path = os.path.join(folder, "tasks", "sst2", f"{name}.tsv")
        source = {"path": path, "label": "label", **changes}
        return common.labelled(source, vocabulary, budget["lengths"][-1], ("0", "1"))

    return {
        "train": labelled("train", **({"rows": budget["rows"]} if budget["rows"] else {})),
        "dev": labelled("dev"),
        "test": labelled("test"),
    }
