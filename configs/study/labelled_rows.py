"""How many labelled rows each method and its teacher need.

A smaller labelled set is a part of the larger one, drawn by the seed; teacher and students of a
seed see the same rows, so that the intervals cover the draw as well.

Run:    python -m pd_jax.main --config=configs/study/labelled_rows.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   task=sst2|mnli size=L2_H128 rows=500+2000+8000 seeds=3
        and those of every study (configs/study/arguments.py)
Time:   after configs/study/sizes.py in the same workdir 100 minutes of one CPU core for two
        numbers: every number and seed has its own teacher and its labels.
Expect: PD > PF > basic.
Found:  with 500 and 2,000 labels that order in agreement with the teacher; accuracies are within
        chance of each other (rows=500+2000; results/sst2).
"""

from configs.study import arguments, claims, pieces

RANKS = (("PD", "PF"), ("PF", "basic"), ("PD", "distillation"))


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(
        arg,
        task="sst2",
        seeds=3,
        size="L2_H128",
        rows="500+2000+8000",
        teacher_finetune=arguments.DEFAULTS["finetune"],
    )
    setting = pieces.Setting("labelled_rows", args, task=args["task"])
    size, counts = args["size"], arguments.counts(args, "rows")
    for seed in setting.seeds:
        for rows in counts:
            place = {"labelled rows": rows}
            setting.teacher_cell(rows=rows, seed=seed, place=place)
            for method in pieces.METHODS:
                setting.student(
                    method, size, seed, labelled=rows, name=f"{rows}_labelled", place=place
                )
    places = [{"size": size, "labelled rows": rows} for rows in counts]
    return setting.config(
        "Labelled rows",
        claims=[
            *claims.ranked(RANKS, places),
            *(
                claims.better("PD", "PF", [place], text=f"PD > PF with {rows:,} labels")
                for place, rows in zip(places, counts, strict=True)
            ),
        ],
        figures=[{"title": "Labelled rows", "x": "labelled rows", "scale": "log"}],
    )
