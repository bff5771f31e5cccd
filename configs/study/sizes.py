"""Model sizes by methods: the figure over depth and width, on SST-2 (or the MNLI subset).

Run:    python -m pd_jax.main --config=configs/study/sizes.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli sizes=L2_H128 (or all, the paper's 24) seeds=3
        and those of every study (configs/study/arguments.py)
        Rates (`pieces.RATES`) and lengths of pre-training were chosen for L2_H128. For other sizes,
        search them (`pretrain=`, `pretrain_rate=`, `rate=`, and for teachers `teacher_pretrain=`,
        `teacher_rate=`); a deeper student from random weights needs more.
Time:   102 minutes of one CPU core, 72 of them for the two pre-trainings; `long,seeds=6` 151, 44 of
        them for the two (an Intel Xeon); --estimate for others.
Expect: PD > PF > basic and PD > distillation at every size, once pre-training has learnt enough;
        basic training flat in size.
Found:  `long,seeds=6`: PD > PF > basic and PD > distillation by agreement with the teacher, and
        PF > basic by accuracy; PD is 0.5 points above PF and 0.2 above distillation, which is
        undecided. By default PD > PF; PD and distillation are level, as are PF and basic
        (results/sst2). On MNLI, a teacher of 40 % teaches little (results/mnli).
"""

from configs.study import arguments, claims, pieces

RANKS = (("PD", "PF"), ("PF", "basic"), ("PD", "distillation"), ("PF", "distillation"))


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(arg, task="sst2", seeds=3, sizes="L2_H128")
    setting = pieces.Setting("sizes", args, task=args["task"])
    setting.teacher_cell()
    for seed in setting.seeds:
        for size in setting.sizes:
            for method in pieces.METHODS:
                setting.student(method, size, seed)
    places = [{"size": size} for size in setting.sizes]
    flat = []
    if len(places) > 1:
        ends = ({"method": "basic", **places[-1]}, {"method": "basic", **places[0]})
        at = f"{setting.sizes[-1]} against {setting.sizes[0]}"
        flat = [
            {
                "text": "basic training is flat in size",
                "contrasts": (claims.minus(*ends, at),),
                "near": 0.01,
            }
        ]
    return setting.config(
        "Five ways to students of several sizes",
        claims=[
            *claims.ranked(RANKS, places),
            claims.better("PD-F", "PD", places, text="a last fine-tuning helps (PD-F > PD)"),
            *flat,
        ],
        figures=[
            {
                "title": "Depth and width",
                "x": "layers",
                "panels": "hidden",
                "paper": "SST-2 by depth and width" if args["task"] == "sst2" else "",
            }
        ],
        note="Rates and lengths of training were chosen for L2_H128.",
    )
