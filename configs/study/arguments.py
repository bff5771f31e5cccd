"""The studies' command-line arguments: budgets, sizes, and the size of a smoke run."""

from configs import common

DEFAULTS = {
    "teacher": "L4_H128",
    "grow": "L2_H128",
    # Steps: as many on a small transfer or labelled set as on a large one; only the text differs.
    "pretrain": 12_000,
    "teacher_pretrain": 6_000,
    "teacher_finetune": 1_500,
    "distill": 300,
    "finetune": 400,
    "teachers": 1,
    "transfer_rows": 38_000,
    "vocabulary": common.COMPACT_VOCABULARY,
    "dropout": 0.1,
    "rate": 0.0,
    "pretrain_rate": 0.0,
    "teacher_rate": 0.0,
    "next_sentence": False,
    "dtype": "float32",
    "long": False,
    "smoke": False,
}
"""Arguments of every study, besides `seeds` and a student's `size` or the students' `sizes`.

`vocabulary` is the number of words in the vocabulary. The logits of `teachers`, each fine-tuned
with its own seed, are averaged. `dropout` is that of teacher and students as they learn the task.
`rate` is every student's peak learning rate, `teacher_rate` that of the teachers' fine-tuning, and
`pretrain_rate` that of pre-training; 0 takes each one's own (`pieces.RATES`). `grow` is the
pre-trained model whose layers, repeated, initialise the teacher's pre-training (progressive
stacking, Gong et al. 2019), at half of `pretrain_rate`; without one, it starts from random weights.
With `next_sentence` models are pre-trained by MLM+ as in the paper, which adds the prediction of
next sentences to MLM. `dtype` is what training and labelling compute in, float32 or bfloat16;
parameters, losses and softmaxes are float32 in any case. Of `transfer_rows`, students learn from no
more than their transfer set has (`sources.TRANSFER`).
"""

LONG = {
    "vocabulary": 16_384,
    "teachers": 4,
    "teacher_pretrain": 4_000,
    "teacher_finetune": 2_000,
    "distill": 1_200,
    "finetune": 2_000,
    "transfer_rows": 150_000,
    "dropout": 0.0,
}
"""What `long` changes.

With the few words that pre-training learns soonest, a teacher is hardly better than its students,
and the methods differ by less than a point: basic training of an L2_H128 has 79.0 % on SST-2's test
set with 4,096 words and 80.9 with 16,384, its teacher 80.0 and 83.7.
"""

SMOKE = {
    "rows": "40+80",
    "lengths": "2+4",
    "temperatures": "1+2",
    "size": "L2_H32",
    "sizes": "L2_H32",
    "teacher": "L4_H32",
    "grow": "L2_H32",
    "seeds": 2,
    "pretrain": 2,
    "teacher_pretrain": 2,
    "teacher_finetune": 2,
    "distill": 2,
    "finetune": 2,
}


def read(arg: str, **more) -> dict:
    """Returns the study's arguments: the common ones and `more`, changed by `arg`.

    `long` and `smoke` change only what `arg` does not set itself; `smoke` makes everything as small
    as possible. Sizes may be names, such as `Mini`; they are returned as `L4_H256`.
    """
    args = common.parse(arg, **{**DEFAULTS, **more})
    common.one_of(("float32", "bfloat16"), args["dtype"], "dtype")
    for name in ("seeds", "teachers"):
        if args.get(name, 1) < 1:
            raise ValueError(f"config argument {name}={args[name]}: give 1 or more")
    given = {part.partition("=")[0].strip() for part in arg.split(",")}
    for word, changes in (("long", LONG), ("smoke", SMOKE)):
        if args[word]:
            args |= {name: changes[name] for name in changes if name in args and name not in given}
    named = {name: args[name] for name in ("size", "teacher", "grow") if args.get(name)}
    return args | {name: common.canonical(size) for name, size in named.items()}


def listed(text: str) -> tuple[str, ...]:
    """Returns the values of an argument that is a list, `a+b+c`, each once."""
    return tuple(dict.fromkeys(text.split("+")))


def counts(args: dict, name: str) -> tuple[int, ...]:
    """Returns the numbers in an argument that is a list of them, each once.

    Raises:
      ValueError: where one is not a whole number of 1 or more.
    """
    texts = args[name].split("+")
    if not all(text.strip().isdecimal() and int(text) for text in texts):
        raise ValueError(
            f"config argument {name}={args[name]}: give whole numbers of 1 or more, as 1000+6000"
        )
    return tuple(dict.fromkeys(map(int, texts)))


def sizes(text: str) -> tuple[str, ...]:
    """Returns the sizes in an argument; `all` stands for the paper's 24, the smallest first."""
    if text != "all":
        return tuple(map(common.canonical, listed(text)))
    return tuple(
        f"L{layers}_H{hidden}" for hidden in (128, 256, 512, 768) for layers in range(2, 13, 2)
    )


def computed_in(dtype: str, stage: dict) -> dict:
    """Returns the stage, computing in `dtype` if it is one that computes."""
    if stage["kind"] == "train":
        return {**stage, "compute": {"dtype": dtype}}
    return {**stage, "dtype": dtype} if stage["kind"] == "label" else stage


def repeated_layers(shallow: str, deep: str) -> tuple[int, ...]:
    """Returns the shallow model's layer that initialises each of the deep one's: 0, 1, 0, 1."""
    (fewer, width), (layers, wanted) = map(common.shape, (shallow, deep))
    if width != wanted or layers % fewer:
        raise ValueError(
            f"grow={shallow} cannot become {deep}: it needs as wide a model whose layers divide "
            "the teacher's; pass grow= for a teacher that starts from random weights"
        )
    return tuple(range(fewer)) * (layers // fewer)
