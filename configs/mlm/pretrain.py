"""Compact BERTs pre-trained on your own text, in one size or in all of the paper's 24.

Run:    python -m pd_jax.main --workdir=runs/mlm \
            --config=configs/mlm/pretrain.py:'text=corpus/*.txt.gz,sizes=Tiny+Mini'
Needs:  text, by default the development data's in $PD_JAX_DATA (default ../shared/data).
Args:   text=FILES (paths or globs, a+b for several; the formats of README) column=text (of files
        that have columns) sizes=L2_H128 (a+b, or all) budget=cpu|paper seed=0 smoke
        vocabulary=FILE (with its own case), or one is trained: words=0 algorithm=wordpiece
        cased accents (keep them: README says when)
        held_out=200 (so many documents, the first, are not trained on but scored)
        next_sentence dtype=float32 batch=0 steps=0 rate=0
        0 takes the budget's.
Time:   cpu: 25 minutes of CPU time (two AMD EPYC cores, f32).
Found:  cpu budget, Tiny, wiki.txt and novels.txt: after 12,000 steps, 25 M tokens, a held-out loss
        of 4.30 and 25.7 % of the masked words right.

budget=paper is BERT's pre-training, which the released miniatures are thought to have had: 30,000
words, batches of 256, nine tenths of 1,000,000 steps at length 128 and the last at 512, AdamW
without bias correction at 1e-4 with 10,000 steps of warm-up. Here each part has a schedule of its
own: the rate rises over the first hundredth of it and falls to 0 at its end, and the second's peak
is a tenth of the first's. On TPUs and GPUs pass dtype=bfloat16.
budget=cpu is `common.pretrain_compact`: what a laptop can do in minutes.

The models are `stages/SIZE-*/model` (with two parts `SIZE_long-*`) in the workdir. Another config
fine-tunes or distils them as `init=common.start_from(FOLDER)` with `vocabulary=FOLDER`.
"""

import os

from configs import common
from configs.study import arguments

BUDGETS = {
    # Words, batch, steps in all, peak rate, and the lengths of the parts.
    "smoke": {"words": 600, "batch": 8, "steps": 10, "rate": 1e-3, "lengths": (16, 32)},
    "cpu": {
        "words": common.COMPACT_VOCABULARY,
        "batch": 32,
        "steps": 12_000,
        "rate": 3e-3,
        "lengths": (64,),
    },
    "paper": {
        "words": 30_000,
        "batch": 256,
        "steps": 1_000_000,
        "rate": 1e-4,
        "lengths": (128, 512),
    },
}
LONG_SHARE = 0.1
"""How many of the steps are at the second length (README of google-research/bert)."""
WARMUP_SHARE = 0.01


def get_config(arg: str = ""):
    """Returns the pipeline: vocabulary, records of each length, and the models."""
    args = _arguments(arg)
    text, vocabulary = _text(args), args["vocabulary"]
    stages = {}
    if not vocabulary:
        vocabulary = "@vocabulary"
        stages["vocabulary"] = common.tokenizer(
            text,
            args["words"],
            algorithm=args["algorithm"],
            lowercase=not args["cased"],
            **({"strip_accents": False} if args["accents"] else {}),
        )
    held_out = {**text, "documents": args["held_out"]}
    lengths, more = args["lengths"], {"next_sentence": True} if args["next_sentence"] else {}
    for length in lengths:
        stages |= {
            f"corpus_{length}": common.corpus(
                text, vocabulary, length, exclude=(held_out,), **more
            ),
            f"held_out_{length}": common.corpus(held_out, vocabulary, length, shards=1, **more),
        }
    results = {}
    for size in arguments.sizes(args["sizes"]):
        parts = _parts(args, size)
        stages |= parts
        results[size] = list(parts)[-1]
    return common.locked(
        {
            "name": "pretrain",
            "stages": stages,
            "report": {
                "title": "Masked language models",
                "rows": tuple(results.items()),
                "metrics": ("held_out/mlm_loss", "held_out/mlm_accuracy"),
            },
            "run": {"log_steps": 100},
        }
    )


def _arguments(arg: str) -> dict:
    given = common.parse(
        arg,
        text="",
        column="text",
        sizes="L2_H128",
        budget="cpu",
        vocabulary="",
        words=0,
        algorithm="wordpiece",
        cased=False,
        accents=False,
        held_out=200,
        next_sentence=False,
        dtype="float32",
        batch=0,
        steps=0,
        rate=0.0,
        seed=0,
        smoke=False,
    )
    if given["smoke"]:
        given |= {"budget": "smoke", "sizes": "L2_H32", "held_out": min(given["held_out"], 5)}
    budget = BUDGETS[common.one_of(BUDGETS, given["budget"], "budget")]
    return {**given, **{name: given.get(name) or value for name, value in budget.items()}}


def _text(args: dict) -> dict:
    """Returns the source of the text."""
    if args["text"]:
        return {"path": arguments.listed(args["text"]), "text": args["column"]}
    files = ("wiki.txt", "novels.txt")
    source = {"path": tuple(os.path.join(common.data_folder(), "corpus", name) for name in files)}
    return {**source, "documents": 60} if args["smoke"] else source


def _parts(args: dict, size: str) -> dict:
    """Returns the stages that pre-train one model: a first part and, with two lengths, a second
    that goes on from it.
    """
    first, *longer = args["lengths"]
    late = round(args["steps"] * LONG_SHARE) if longer else 0
    parts = {size: _part(args, size, first, args["steps"] - late, args["rate"])}
    for length in longer:
        begin = common.start_from(f"@{size}")
        parts[f"{size}_long"] = _part(args, size, length, late, args["rate"] / 10, init=begin)
    return parts


def _part(args: dict, size: str, length: int, steps: int, rate: float, **changes) -> dict:
    records, batch = f"@corpus_{length}", args["batch"]
    shared = {
        "evaluation": {"sets": {"held_out": f"@held_out_{length}"}, "every": {"steps": 10_000}},
        "compute": {"dtype": args["dtype"]},
        "seed": args["seed"],
        **({"objective": {"next_sentence": True}} if args["next_sentence"] else {}),
        **changes,
    }
    if args["budget"] != "paper":
        compact = common.compact(size)
        return common.pretrain_compact(
            compact, records, steps, rate=rate, batch=batch, length=length, **shared
        )
    return common.pretrain(
        common.model(size),
        common.data(records, batch, (length,)),
        {"steps": steps},
        common.adamw(rate, warmup=WARMUP_SHARE, bias_correction=False),
        **shared,
    )
