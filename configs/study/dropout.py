"""Whether a compact student tolerates BERT's dropout, and how PF does after more fine-tuning.

Not in the paper, which keeps dropout at 0.1. Pre-training of compact models does without it here
(`common.pretrain_compact`); this asks the same about what follows. Basic training and PF take five
times the steps of the other studies.

Run:    python -m pd_jax.main --config=configs/study/dropout.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli size=L2_H128 shares=0+0.1 seeds=6
        and those of every study (configs/study/arguments.py)
Time:   after configs/study/sizes.py in the same workdir 70 minutes of one CPU core (an Intel Xeon):
        100 seconds for 2,000 steps of fine-tuning, 50 for a distillation.
Expect: the paper makes no claim; its order of methods at every share.
Found:  PF is above basic training, by 1.0 points with dropout and 1.7 without, and above its
        teacher (79.0 %), so that PD is not above PF. Without dropout PD follows the teacher better
        than distillation from random weights does (results/sst2).
"""

import itertools

from configs.study import arguments, claims, pieces

METHODS = ("basic", "distillation", "PF", "PD")
RANKS = (("PF", "basic"), ("PD", "distillation"), ("PD", "PF"))


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(arg, task="sst2", seeds=6, size="L2_H128", shares="0+0.1", finetune=2_000)
    setting = pieces.Setting("dropout", args, task=args["task"])
    size = args["size"]
    shares = sorted(float(text) for text in arguments.listed(args["shares"]))
    setting.teacher_cell()
    for seed, share, method in itertools.product(setting.seeds, shares, METHODS):
        setting.student(
            method,
            size,
            seed,
            model={"dropout": share, "attention_dropout": share},
            name=f"dropout_{share:g}".replace(".", "_"),
            place={"dropout": share},
        )
    return setting.config(
        "Dropout",
        claims=_claims(size, shares),
        figures=[{"title": "Dropout", "x": "dropout", "scale": "linear"}],
    )


def _claims(size: str, shares: list[float]) -> list[dict]:
    """Returns the paper's order at each share, and what each method gains from less dropout."""

    def at(method: str, share: float) -> dict:
        return {"method": method, "size": size, "dropout": share}

    ordered = [
        {
            "text": f"{first} > {second} at dropout {share:g}",
            "contrasts": (claims.minus(at(first, share), at(second, share), f"{share:g}"),),
        }
        for share in shares
        for first, second in RANKS
    ]
    gains = [
        {
            "text": f"{method} gains by dropout {less:g} in place of {more:g}",
            "contrasts": (claims.minus(at(method, less), at(method, more), method),),
        }
        for method in METHODS
        for less, more in itertools.pairwise(shares)
    ]
    return [*ordered, *gains]
