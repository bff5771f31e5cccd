"""Temperature, and a share of hard labels, in distillation: not in the paper, which has neither.

The transfer set is the labelled set's own text, so that there are hard labels to mix in.

Run:    python -m pd_jax.main --config=configs/study/temperature.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli size=L2_H128 temperatures=1+2+4 shares=0+0.5 teacher=L4_H128 grow=L2_H128
        seeds=3 pretrain=12000 teacher_pretrain=6000 teacher_finetune=1500 distill=300 rate=0
        dtype=float32 smoke
Time:   say --estimate.
Expect: no claim of the paper's; small differences.
"""

import itertools

from configs.study import arguments, claims, pieces


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(
        arg, task="sst2", seeds=3, size="L2_H128", temperatures="1+2+4", shares="0+0.5"
    )
    if args["smoke"]:
        args["temperatures"] = "1+2"
    setting = pieces.Setting("temperature", args, task=args["task"])
    temperatures, shares = (
        [float(text) for text in arguments.listed(args[name])]
        for name in ("temperatures", "shares")
    )
    setting.teacher_cell()
    for seed in setting.seeds:
        for temperature in temperatures:
            for share in shares:
                setting.student(
                    "PD",
                    args["size"],
                    seed,
                    transfer="own",
                    objective={"temperature": temperature, "hard_weight": share},
                    name=f"t{temperature:g}_h{share:g}".replace(".", "_"),
                    place=_place(temperature, share),
                )

    return setting.config(
        "Temperature and hard labels",
        claims=[
            _above_the_papers(args["size"], other, (temperatures[0], shares[0]))
            for other in itertools.product(temperatures, shares)
            if other != (temperatures[0], shares[0])
        ],
        figures=[
            {
                "title": "Temperature and hard labels",
                "x": "temperature",
                "series": "hard labels",
                "scale": "log",
            }
        ],
    )


def _above_the_papers(size: str, other: tuple[float, float], papers: tuple[float, float]) -> dict:
    at = "temperature {:g}, hard labels {:g}".format(*other)
    first, second = (
        {"method": "PD", "size": size, **_place(*values)} for values in (other, papers)
    )
    return {"text": f"{at} > the paper's loss", "contrasts": (claims.minus(first, second, at),)}


def _place(temperature: float, share: float) -> dict:
    return {"temperature": temperature, "hard labels": f"{share:g}"}
