"""Temperature and a share of hard labels in distillation; the paper has neither.

The transfer set is the labelled set's own text, so that there are hard labels to mix in.

Run:    python -m pd_jax.main --config=configs/study/temperature.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli size=L2_H128 temperatures=1+2+4 shares=0+0.5 seeds=3
        and those of every study (configs/study/arguments.py)
Time:   after configs/study/sizes.py in the same workdir 20 minutes of one CPU core (an Intel Xeon).
Expect: the paper makes no claim; small differences.
Found:  none in accuracy (0.15 points at most); half of the loss from hard labels costs 0.6 to 1.4
        points of agreement with the teacher (results/sst2).
"""

import itertools

from configs.study import arguments, claims, pieces

PAPERS = (1.0, 0.0)
"""The paper's loss: temperature 1, and the teacher's outputs alone."""


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(
        arg, task="sst2", seeds=3, size="L2_H128", temperatures="1+2+4", shares="0+0.5"
    )
    setting = pieces.Setting("temperature", args, task=args["task"])
    temperatures, shares = (
        [float(text) for text in arguments.listed(args[name])]
        for name in ("temperatures", "shares")
    )
    losses = tuple(itertools.product(temperatures, shares))
    if PAPERS not in losses:
        raise ValueError(
            "config arguments temperatures= and shares= lack 1 and 0, the paper's loss"
        )
    setting.teacher_cell()
    for seed, (temperature, share) in itertools.product(setting.seeds, losses):
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
        claims=[_above_the_papers(args["size"], *other) for other in losses if other != PAPERS],
        figures=[
            {
                "title": "Temperature and hard labels",
                "x": "temperature",
                "series": "hard labels",
                "scale": "log",
            }
        ],
    )


def _above_the_papers(size: str, temperature: float, share: float) -> dict:
    at = f"temperature {temperature:g}, hard labels {share:g}"
    first, second = (
        {"method": "PD", "size": size, **_place(*loss)} for loss in ((temperature, share), PAPERS)
    )
    return {"text": f"{at} > the paper's loss", "contrasts": (claims.minus(first, second, at),)}


def _place(temperature: float, share: float) -> dict:
    return {"temperature": temperature, "hard labels": f"{share:g}"}
