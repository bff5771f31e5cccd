"""A masked language model taught by a deeper one (Sanh et al. 2019), beside plain MLM.

Run:    python -m pd_jax.main --config=configs/distill/lm.py --workdir=runs/lm
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   budget=cpu|gpu size=L2_H128 teacher=L4_H128 pretrained= top_k=0 rate=0 teacher_rate=0 seed=0
        smoke
        `rate` is every student's peak learning rate, `teacher_rate` the teacher's; 0 takes the
        budget's.
        The models of the paper: :budget=gpu,size=L6_H768,teacher=L12_H768,pretrained=FOLDER
        (a BERT-Base's with its tokenizer).
        :top_k=64 adds a student taught by a store of the teacher's 64 likeliest tokens at masked
        positions, and its twin that runs the teacher itself.
Time:   cpu: 34 CPU minutes, 49 minutes on two busy cores. It has its own vocabulary of 4,096
        entries: with BERT's 30,522, the head alone would cost more than everything else.
Found:  cpu budget, one seed, held-out MLM loss: teacher 6.003; its layers by MLM alone 6.011, by
        the triple loss 5.993; random layers by the triple loss 6.005. KL to the teacher 0.014 and
        0.019. All have learnt little more than word frequencies: the teacher's 1,500 steps are too
        few.

All students but one start with every other layer of the teacher (of 12 for 6: 0, 2, 4, 7, 9, 11).
The triple loss is 5 soft + 2 MLM + 1 cosine at T = 2. The held-out text is film reviews.

budget=gpu trains students as the paper's code does: batches of 2,000, AdamW at 5e-4 with 5 % of
warm-up, beta2 0.98, no decay and clipping at 5. Unlike there, positions learn, rare words are
masked as often as others, and the text is the development data's, for 6,400 steps in place of three
epochs of Wikipedia and BooksCorpus. Students' dropout is BERT's 0.1.
"""

import os

from configs import common

STILL = {"dropout": 0.0, "attention_dropout": 0.0}
BUDGETS = {
    # Steps of the teacher and of each student, examples per step, length, held-out reviews,
    # documents in the part of the corpus for which the teacher's outputs are stored.
    "smoke": {"teacher": 4, "student": 4, "batch": 16, "length": 32, "held_out": 8, "part": 8},
    "cpu": {
        "teacher": 1_500,
        "student": 500,
        "batch": 64,
        "length": 64,
        "held_out": 200,
        "part": 500,
    },
    "gpu": {
        "teacher": 100_000,
        "student": 6_400,
        "batch": 256,
        "length": 128,
        "held_out": 2_000,
        "part": 10_000,
    },
}
SANH = {"warmup": 0.05, "weight_decay": 0.0, "beta2": 0.98, "clip": 5.0}
"""How Sanh et al.'s AdamW differs from BERT's."""
SANH_BATCH, MICRO_BATCHES = 2_000, 25
"""Examples per step, on 8 GPUs 50 batches of 5 there; here 80 are computed at once."""
SANH_LAYERS = (0, 2, 4, 7, 9, 11)


def get_config(arg: str = ""):
    """Returns the pipeline: vocabulary, records, teacher, three students (with `top_k`, five)."""
    args = common.teacher_and_student(arg, BUDGETS, top_k=0, rate=0.0, teacher_rate=0.0)
    stages = {**_text(args), **_models(args)}
    rows = (
        ("Teacher", "teacher"),
        ("Layers of the teacher, MLM", "mlm"),
        ("Layers of the teacher, triple loss", "triple"),
        ("Random layers, triple loss", "triple_random"),
        ("Layers of the teacher, masked tokens, teacher at hand", "masked_at_hand"),
        (f"Layers of the teacher, masked tokens, stored top {args['top_k']}", "masked_stored"),
    )
    return common.locked(
        {
            "name": "lm",
            "stages": stages,
            "report": {
                "title": f"A {args['size']} that learns its teacher's language",
                "rows": tuple(row for row in rows if row[1] in stages),
                "metrics": ("dev/mlm_loss", "dev/mlm_accuracy", "dev/kl"),
            },
            "run": {"log_steps": 100},
        }
    )


def _text(args: dict) -> dict:
    """Returns the stages of the vocabulary, the corpus and the held-out reviews."""
    name, budget, folder = args["budget"], BUDGETS[args["budget"]], common.data_folder()
    corpus = {"path": (os.path.join(folder, "corpus", "wiki.txt"),)}
    reviews = {
        "path": os.path.join(folder, "transfer", "imdb_unsup.txt"),
        "documents": budget["held_out"],
    }
    vocabulary = args["pretrained"] or os.path.join(folder, "vocab", "vocab.txt")
    stages = {}
    if name != "gpu" and not args["pretrained"]:
        size, vocabulary = 4_096 if name == "cpu" else 600, "@vocabulary"
        stages["vocabulary"] = common.tokenizer(corpus, size, sample_sentences=100_000)
    sources = {"corpus": corpus, "held_out": reviews}
    if args["top_k"]:
        sources["part"] = {**corpus, "documents": budget["part"]}
    for stage, source in sources.items():
        stages[stage] = common.corpus(source, vocabulary, budget["length"])
    return stages


def _recipe(args: dict, of: str) -> dict:
    """Returns the batch, the optimiser and the computation of the teacher, or of students.

    The gpu budget trains students as Sanh et al. did; the others are for models as small as the
    default ones, which start from random weights or from a teacher that did.
    """
    gpu = args["budget"] == "gpu"
    rate = args["teacher_rate" if of == "teacher" else "rate"] or (5e-4 if gpu else 2e-3)
    if gpu and of == "student":
        computed = {"compute": {"micro_batches": MICRO_BATCHES}}
        return {"batch": SANH_BATCH, "optimizer": common.adamw(rate, **SANH), **computed}
    return {"batch": BUDGETS[args["budget"]]["batch"], "optimizer": common.adamw(rate)}


def _models(args: dict) -> dict:
    """Returns the stages of the teacher and of every student."""
    budget = BUDGETS[args["budget"]]
    student = common.fresh(args["size"], **({} if args["budget"] == "gpu" else STILL))
    teacher = args["pretrained"] or "@teacher"
    sanh = (args["teacher"], args["size"]) == ("L12_H768", "L6_H768")
    begin = common.start_from(teacher, layers=SANH_LAYERS if sanh else "every_other")

    def trained(make, model: dict, of: str, *, records: str = "@corpus", **changes) -> dict:
        read = {"logits": changes.pop("logits")} if "logits" in changes else {}
        recipe = _recipe(args, of)
        return make(
            model,
            common.data(records, recipe.pop("batch"), (budget["length"],), **read),
            {"steps": budget[of]},
            evaluation={"sets": {"dev": "@held_out"}, "batch": 64},
            seed=args["seed"],
            **recipe,
            **changes,
        )

    def taught(objective: dict, **changes) -> dict:
        return trained(common.lm_distill, student, "student", objective=objective, **changes)

    stages = {}
    if not args["pretrained"]:
        deep = common.fresh(args["teacher"], **STILL)
        stages["teacher"] = trained(common.pretrain, deep, "teacher")
    stages |= {
        "mlm": trained(common.pretrain, student, "student", init=begin),
        "triple": taught({"teacher": teacher}, init=begin),
        "triple_random": taught({"teacher": teacher}),
    }
    if args["top_k"]:
        asked, lengths = {"top_k": args["top_k"]}, (budget["length"],)
        masked, part = {"positions": "masked", "cosine_weight": 0.0}, {"records": "@part"}
        stages |= {
            "answers": common.label(teacher, "@part", lengths, language=asked),
            "masked_at_hand": taught({**masked, "teacher": teacher}, init=begin, **part),
            "masked_stored": taught(masked, init=begin, logits="@answers", **part),
        }
    return stages
