"""How much pre-training a student needs: the paper pre-trains once, and long.

One teacher and its logits serve every student; students differ in the steps of masked language
modelling before they learn the task, on the same text, each with its own schedule.

Run:    python -m pd_jax.main --config=configs/study/pretraining.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli size=L2_H128 lengths=12000+36000 seeds=3
        and those of every study (configs/study/arguments.py)
        `pretrain` is the number of steps of the model that the teacher is grown from.
Time:   after configs/study/sizes.py in the same workdir 70 minutes of one CPU core (an Intel Xeon),
        59 of them to pre-train for 36,000 steps.
Expect: PF and PD gain from longer pre-training; PF > basic and PD > distillation once it is long
        enough.
Found:  otherwise: from 12,000 to 36,000 steps (a loss of 3.61 to 3.14) PF and PD do not change on
        the test set, and PD is 1.6 points farther from its teacher (results/sst2).
"""

import itertools

from configs import common
from configs.study import arguments, claims, pieces


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(arg, task="sst2", seeds=3, size="L2_H128", lengths="12000+36000")
    setting = pieces.Setting("pretraining", args, task=args["task"])
    size = args["size"]
    lengths = sorted(arguments.counts(args, "lengths"))
    setting.teacher_cell()
    for seed in setting.seeds:
        for method in ("basic", "distillation"):
            setting.student(method, size, seed)
        for steps, method in itertools.product(lengths, ("PF", "PD")):
            setting.student(
                method,
                size,
                seed,
                start=common.start_from(setting.pretrained(size, steps=steps)),
                name=f"{steps}_steps",
                place={"pre-training": steps},
            )
    return setting.config(
        "Steps of pre-training",
        claims=_claims(size, lengths),
        figures=[{"title": "Steps of pre-training", "x": "pre-training", "scale": "log"}],
    )


def _claims(size: str, lengths: list[int]) -> list[dict]:
    """Returns the paper's order after each length, and what the longest gains over the shortest."""

    def after(method: str, steps: int) -> dict:
        return {"method": method, "size": size, "pre-training": steps}

    ordered = [
        {
            "text": f"{first} > {second} after {steps:,} steps",
            "contrasts": (claims.minus(after(first, steps), other, f"{steps:,} steps"),),
        }
        for steps in lengths
        for first, second, other in (
            ("PF", "basic", {"method": "basic", "size": size}),
            ("PD", "distillation", {"method": "distillation", "size": size}),
            ("PD", "PF", after("PF", steps)),
        )
    ]
    gains = [
        {
            "text": f"{method} gains by {longer:,} in place of {shorter:,} steps",
            "contrasts": (claims.minus(after(method, longer), after(method, shorter), method),),
        }
        for method in ("PF", "PD")
        for shorter, longer in itertools.pairwise(lengths)
    ]
    return [*ordered, *gains]
