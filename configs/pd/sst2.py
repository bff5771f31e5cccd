"""The five methods of the paper on SST-2, transfer set IMDb: one seed of `configs/study/sizes.py`.

Run:    python -m pd_jax.main --config=configs/pd/sst2.py --workdir=runs/sst2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   size=L2_H128 seed=0 and those of every study (configs/study/arguments.py). With a GPU for
        some hours, pass long,size=L4_H256,teacher=L8_H256,grow=L4_H256,dtype=bfloat16,
        pretrain=100000,distill=10000,finetune=3000
Time:   89 minutes of one CPU core (AMD EPYC, f32), 72 of them for the two pre-trainings.
Found:  accuracy % on dev (872) and test (1,821 sentences), seed 0: teacher 79.5 and 80.2, basic
        75.6 and 76.9, distillation 78.6 and 80.4, PF 76.4 and 76.0, PD 79.7 and 79.3, PD-F 78.8
        and 79.2. The majority class has 50. With three seeds: results/sst2.
"""

from configs import common
from configs.study import arguments, pieces


def get_config(arg: str = ""):
    """Returns the pipeline: text, records, two pre-trainings, teacher, labels, five students."""
    args = arguments.read(arg, size="L2_H128", seed=0)
    setting = pieces.Setting("sst2", args)
    students = {
        method: setting.student(method, args["size"], args["seed"]) for method in pieces.METHODS
    }
    models = {"Teacher": setting.teacher(), "PD": students["PD"], "PD-F": students["PD-F"]}
    stages = {
        **setting.stages,
        "compare": common.compare(setting.labelled("dev"), pieces.LENGTHS, models),
    }
    rows = {"Teacher": models["Teacher"], **students}
    return common.locked(
        {
            "name": "sst2",
            "stages": stages,
            "report": {
                "title": f"Five ways to a {args['size']} for SST-2",
                "rows": tuple((name, stage[1:]) for name, stage in rows.items()),
                "metrics": ("test/accuracy", "dev/accuracy"),
                "reference": "SST-2",
            },
            "run": {"log_steps": 100},
        }
    )
