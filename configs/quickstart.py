"""The whole chain on generated text, offline: five methods, one table, minutes on a laptop.

Run:    python -m pd_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
Time:   5 minutes on two cores (Intel Xeon, jax 0.10.2, f32), compiling included.
Expect: dev accuracy (1,000 rows, one seed): basic 71, teacher 79, distillation 80, PF 81, PD 82,
        PD-F 82; except for basic, these differ only by chance, and vary with the machine.
Args:   seed=0 smoke (the same in half a minute, too short to learn anything)
"""

from configs import common

LENGTH = 32


def get_config(arg: str = ""):
    """Returns the pipeline: text, vocabulary, records, teacher, labels, five students."""
    args = common.parse(arg, seed=0, smoke=False)
    stages = {
        **_text_and_records(args["seed"], args["smoke"]),
        **_models(args["seed"], args["smoke"]),
        "compare": common.compare("@dev", (LENGTH,), {"Teacher": "@teacher", "PD": "@pd"}),
    }
    return common.locked(
        {
            "name": "quickstart",
            "stages": stages,
            "report": {
                "title": "Five ways to a small student",
                "rows": (("Teacher", "teacher"), *common.FIVE_METHODS),
                "metrics": ("dev/accuracy", "test/accuracy"),
            },
        }
    )


def _models(seed: int, smoke: bool) -> dict:
    """Returns the stages of two pre-trainings, the teacher and its labels, and five students."""
    student, teacher = (
        common.model(size, heads=heads, positions=64, initializer_range=0.1, dropout=0.0)
        | {"attention_dropout": 0.0}
        for size, heads in (("L2_H64", 2), ("L2_H128", 4))
    )

    def steps(number: int) -> dict:
        return {"steps": 4 if smoke else number}

    def pretrain(model: dict, number: int, learning_rate: float) -> dict:
        return common.pretrain(
            model,
            common.data("@corpus", 32, (LENGTH,)),
            steps(number),
            common.adamw(learning_rate, beta2=0.98),
            seed=seed,
        )

    labelled, tuning, tune = common.data("@train", 32, (LENGTH,)), steps(200), common.adamw(1e-3)
    begin = common.start_from("@pretrain_teacher")
    shared = {
        "evaluation": {"sets": {"dev": "@dev"}, "final": {"test": "@test"}, "batch": 250},
        "seed": seed,
    }
    return {
        "pretrain": pretrain(student, 2_400, 6e-3),
        "pretrain_teacher": pretrain(teacher, 1_500, 3e-3),
        "teacher": common.finetune(teacher, labelled, tuning, tune, init=begin, **shared),
        "labels": common.label("@teacher", "@transfer", (LENGTH,)),
        **common.five_methods(
            student=student,
            pretrained="@pretrain",
            transfer=common.data("@transfer", 64, (LENGTH,), logits="@labels"),
            labelled=labelled,
            distill_length=steps(150),
            finetune_length=tuning,
            distill_optimizer=common.adamw(2e-3),
            finetune_optimizer=tune,
            **shared,
        ),
    }


def _text_and_records(seed: int, smoke: bool) -> dict:
    sizes = {"corpus_sentences": 24_000, "transfer_rows": 4_000, "train_rows": 400}
    if smoke:
        sizes = {"corpus_sentences": 600, "transfer_rows": 200, "train_rows": 100}
        sizes["evaluation_rows"] = 100

    def labelled(name: str) -> dict:
        source = {"path": f"@text/{name}.tsv", "label": "label"}
        return common.labelled(source, "@vocabulary", LENGTH, ("negative", "positive"))

    return {
        "text": common.synthetic(seed=seed, **sizes),
        "vocabulary": common.tokenizer({"path": "@text/corpus.txt"}, 600),
        "corpus": common.corpus({"path": "@text/corpus.txt"}, "@vocabulary", LENGTH),
        "transfer": common.unlabelled({"path": "@text/transfer.txt"}, "@vocabulary", LENGTH),
        "train": labelled("train"),
        "dev": labelled("dev"),
        "test": labelled("test"),
    }
