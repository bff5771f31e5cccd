"""How near the transfer set must be to the task: the paper's Figure 9, with the last fine-tuning.

Equally many rows of film reviews, of other reviews and of news, distilled for SST-2.

Run:    python -m pd_jax.main --config=configs/study/domain.py --workdir=runs/study --jobs=2
Needs:  the development data in $PD_JAX_DATA (default ../shared/data).
Args:   size=L2_H128 sets=news+electronics+imdb seeds=3
        and those of every study (configs/study/arguments.py)
Time:   after configs/study/sizes.py in the same workdir 25 minutes of one CPU core for each set;
        `:long` 30 minutes.
Expect: the farther the set, the worse PD, and the more a last fine-tuning helps (PD-F - PD).
Found:  both, from news and IMDb (`sets=news+imdb` and `:long,transfer_rows=38000,sets=news+imdb,
        seeds=4`; results/sst2): 77.3 % after PD from news and 82.2 from IMDb, 81.0 and 82.9 after
        the last fine-tuning.
"""

from configs import common
from configs.study import arguments, claims, pieces

SIMILARITY = {"news": 0.361, "electronics": 0.434, "imdb": 0.641}
"""Spearman's correlation of word frequencies with SST-2's training set, by `tools.similarity`
(n = 1, the 10,000 most frequent words): where each set stands on the figure's axis.
"""
METHODS = ("distillation", "PD", "PD-F")


def get_config(arg: str = ""):
    """Returns the study."""
    args = arguments.read(arg, seeds=3, size="L2_H128", sets="+".join(SIMILARITY))
    setting = pieces.Setting("domain", args)
    *_, near = SIMILARITY
    sets = _sets(args["sets"])
    rows = setting.rows(*sets)
    fewer = {} if args["smoke"] or rows == setting.rows(near) else {"rows": rows}
    special = [f"{rows}_rows"] if fewer else []
    setting.teacher_cell()
    for seed in setting.seeds:
        for method in ("basic", "PF"):
            setting.student(method, args["size"], seed)
        for name, similarity in sets.items():
            for method in METHODS:
                setting.student(
                    method,
                    args["size"],
                    seed,
                    transfer=name,
                    # The near set is the one that every study uses.
                    name="_".join([*([] if name == near else [name]), *special]),
                    **fewer,
                    place={"transfer": name, "similarity": similarity},
                )
    return setting.config(
        "Nearness of the transfer set",
        claims=_claims(args["size"], tuple(sets)),
        figures=[
            {
                "title": "Similarity of transfer and labelled set",
                "x": "similarity",
                "scale": "linear",
                "paper": "Figure 9",
            }
        ],
        note="Similarity is Spearman's correlation of word frequencies with the labelled set's.",
    )


def _sets(text: str) -> dict[str, float]:
    """Returns the transfer sets that an argument names, the farthest first."""
    named = [common.one_of(SIMILARITY, name, "sets") for name in arguments.listed(text)]
    if len(set(named)) < 2:
        raise ValueError(f"config argument sets={text}: nearness needs two sets or more to compare")
    return {name: similarity for name, similarity in SIMILARITY.items() if name in named}


def _claims(size: str, sets: tuple[str, ...]) -> list[dict]:
    """Returns the claims about nearness, the farthest set first."""

    def place(name: str, method: str) -> dict:
        similarity = SIMILARITY[name]
        return {"method": method, "size": size, "transfer": name, "similarity": similarity}

    def claim(text: str, first: dict, second: dict, at: str) -> dict:
        return {"text": text, "contrasts": (claims.minus(first, second, at),)}

    far, *_, near = sets
    gain = (
        claims.minus(place(far, "PD-F"), place(far, "PD"), ""),
        claims.minus(place(near, "PD-F"), place(near, "PD"), "", weight=-1.0),
    )
    terms = gain[0]["terms"] + gain[1]["terms"]
    return [
        {
            "text": f"a last fine-tuning helps more after {far} than after {near}",
            "contrasts": ({"at": f"{far} - {near}", "terms": terms},),
        },
        *(
            claim(
                f"PD > distillation from {name}",
                place(name, "PD"),
                place(name, "distillation"),
                name,
            )
            for name in sets
        ),
        *(
            claim(
                f"{method} is better from {near} than from {far}",
                place(near, method),
                place(far, method),
                method,
            )
            for method in METHODS
        ),
    ]
