"""The same text for both steps, D_LM = D_T: the paper's Figure 10, on SST-2 with film reviews.

The students are pre-trained on the documents whose sentences form the transfer set, of which
distillation reads all but 4 %. The only difference is the order of two objectives over one text.

Run:    python -m pd_jax.main --config=configs/study/same_data.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   sizes=L2_H128 seeds=3
        and those of every study (configs/study/arguments.py)
Time:   after configs/study/sizes.py in the same workdir 25 minutes of one CPU core, 17 of them to
        pre-train.
Expect: PD > PF and PD > distillation, although pre-training adds no other text.
Found:  PD > PF; `:long` also PD > distillation in agreement with the teacher, by 1.3 points; by
        default PD is 1.4 behind (results/sst2).
"""

from configs import common
from configs.study import arguments, claims, pieces

RANKS = (("PD", "PF"), ("PD", "distillation"), ("PF", "distillation"))


def get_config(arg: str = ""):
    """Returns the study."""
    setting = pieces.Setting("same_data", arguments.read(arg, seeds=3, sizes="L2_H128"))
    setting.teacher_cell()
    for seed in setting.seeds:
        for size in setting.sizes:
            setting.student("basic", size, seed)
            setting.student("distillation", size, seed)
            start = common.start_from(setting.pretrained(size, "imdb"))
            for method in ("PF", "PD"):
                setting.student(method, size, seed, start=start, name="imdb")
    return setting.config(
        "The same data for both steps",
        claims=claims.ranked(RANKS, [{"size": size} for size in setting.sizes]),
        figures=[{"title": "The same data for both steps", "x": "size", "paper": "Figure 10"}],
        note="The paper's values are those of MNLI.",
    )
