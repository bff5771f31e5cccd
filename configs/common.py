"""Building blocks of config files: each call returns a fresh value and changes nothing."""

import math
import os
import re
from collections.abc import Collection

from ml_collections import config_dict

RELEASED = {
    "tiny": "L2_H128",
    "mini": "L4_H256",
    "small": "L4_H512",
    "medium": "L8_H512",
    "base": "L12_H768",
    "large": "L24_H1024",
}
"""The released sizes by name. `pd_jax` has them, too, but configs import nothing from it."""


_TRUTHS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number"}


def parse(arg: str, **defaults) -> dict:
    """Returns the defaults changed by `arg`: `key=value,key=value`, and a bare word for True.

    Values take the type of their default. An unknown key raises an error that lists the known ones;
    a value of another type raises one that names its key.
    """
    found = dict(defaults)
    for part in filter(None, (piece.strip() for piece in arg.split(","))):
        key, given, value = part.partition("=")
        if key not in defaults:
            known = ", ".join(f"{name}={default}" for name, default in defaults.items())
            raise ValueError(f"config argument {key!r} is unknown; this config takes {known}")
        kind = type(defaults[key])
        found[key] = True if kind is bool and not given else _value(key, value, kind)
    return found


def _value(key: str, text: str, kind: type):
    try:
        return _TRUTHS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"config argument {key}={text!r}: give {_WANTED[kind]}") from None


def one_of(known: Collection[str], value: str, name: str) -> str:
    """Returns the value if the argument may have it; raises ValueError otherwise."""
    if value not in known:
        raise ValueError(f"config argument {name}={value}: this config knows {', '.join(known)}")
    return value


def canonical(size: str) -> str:
    """Returns `L4_H256` for `Mini` and for itself; raises ValueError for anything else."""
    name = RELEASED.get(size.lower(), size.upper())
    if not re.fullmatch(r"L[1-9]\d*_H[1-9]\d*", name):
        names = ", ".join(known.capitalize() for known in RELEASED)
        raise ValueError(f"size {size!r} is none: write L4_H256 (layers, hidden size) or {names}")
    return name


def shape(size: str) -> tuple[int, int]:
    """Returns layers and hidden size of a model's size, `L4_H256` or `Mini`."""
    layers, hidden = canonical(size).split("_")
    return int(layers[1:]), int(hidden[1:])


def teacher_and_student(arg: str, budgets: Collection[str], **more) -> dict:
    """Returns a config's arguments for one teacher and one student, and `more`, changed by `arg`.

    `smoke` is a budget.
    """
    pair = {"size": "L2_H128", "teacher": "L4_H128", "pretrained": ""}
    found = parse(arg, **pair, budget="cpu", seed=0, **more, smoke=False)
    budget = "smoke" if found["smoke"] else one_of(budgets, found["budget"], "budget")
    sizes = {name: canonical(found[name]) for name in ("size", "teacher")}
    return {**found, **sizes, "budget": budget}


RUN = {
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "save_seconds": 300.0,
    "keep_checkpoints": 2,
    "log_steps": 50,
    "tensorboard": True,
    "prefetch": 4,
    "watchdog_seconds": 1800.0,
    "skip_nonfinite": 0,
}
"""How a run is carried out, spelt out so that `--config.run.mesh.fsdp=4` finds its key."""


def locked(pipeline: dict) -> config_dict.ConfigDict:
    """Returns a pipeline's values as a locked ConfigDict, with `RUN` as the defaults of its run."""
    config = config_dict.ConfigDict({**pipeline, "run": {**RUN, **pipeline.get("run", {})}})
    config.lock()
    return config


def data_folder() -> str:
    """Returns the folder of the development data: `$PD_JAX_DATA`, or `../shared/data`."""
    return os.environ.get("PD_JAX_DATA", os.path.join("..", "shared", "data"))


def adamw(learning_rate: float, **changes) -> dict:
    """Returns BERT's optimiser at a peak rate: 10 % warm-up, linear decay, decay 0.01, clip 1.0."""
    return {"learning_rate": learning_rate, **changes}


def model(size: str, **changes) -> dict:
    """Returns a BERT of a named size, `L4_H256` or `Mini`."""
    return {"size": size, **changes}


def compact(size: str, **changes) -> dict:
    """Returns a BERT for small-scale pre-training from scratch, by `pretrain_compact`.

    BERT's initializer range of 0.02 suits a hidden size of 768. With it, a narrow model starts with
    almost uniform attention, and for a long time learns only word frequencies; hence
    0.02 * sqrt(768 / 128) = 0.05 (`fresh`). Positions initialised as sinusoids shorten that phase:
    an L2_H128 had a loss of 5.58 instead of 5.85 after 4,000 steps, and of 4.62 instead of 5.48
    after 6,000 (one run of each).
    """
    return fresh(size, position_init="sinusoidal", **changes)


def fresh(size: str, **changes) -> dict:
    """Returns a BERT with its initializer range, 0.02 at 768 hidden units, scaled to its width."""
    scaled = round(0.02 * math.sqrt(768 / shape(size)[1]), 2)
    return model(size, initializer_range=scaled, **changes)


COMPACT_VOCABULARY = 4_096
"""Vocabulary size for small-scale pre-training: the fewer words, the sooner each is learnt."""


def pretrain_compact(
    model: dict,
    records: str,
    steps: int,
    *,
    rate: float,
    batch: int = 32,
    length: int = 64,
    **changes,
) -> dict:
    """Returns the pre-training of every small model on real text: one recipe, for all studies.

    With COMPACT_VOCABULARY words, an L2_H128 stays on the plateau of word frequencies (a loss of
    5.85) for 4,000 to 5,000 steps of 2,048 tokens, ten minutes of a CPU core, and reaches 3.91
    after 12,000. This takes a high rate (3e-3), a short memory of squared gradients (beta2) and no
    dropout. Deeper models stay there longer: an L4_H128 had 5.75 after 13,500 steps. One
    initialised with the layers of the L2_H128, repeated, had 3.99 after 1,000, at half the rate.
    """
    return pretrain(
        {**model, "dropout": 0.0, "attention_dropout": 0.0},
        data(records, batch, (length,)),
        {"steps": steps},
        adamw(rate, beta2=0.98, warmup=0.05),
        **changes,
    )


def synthetic(**changes) -> dict:
    """Returns the stage that generates text."""
    return {"kind": "synthetic", **changes}


def tokenizer(source: dict, vocab_size: int, **changes) -> dict:
    """Returns the stage that trains a vocabulary."""
    return {"kind": "tokenizer", "source": source, "vocab_size": vocab_size, **changes}


def corpus(source: dict | tuple, tokenizer: str, max_length: int, **changes) -> dict:
    """Returns the stage that cuts documents into records for masked language modelling."""
    kept = {
        name: changes.pop(name) for name in ("deduplicate", "exclude", "shards") if name in changes
    }
    examples = {"layout": "corpus", **changes}
    return _records(source, tokenizer, max_length, examples, **kept)


def unlabelled(source: dict | tuple, tokenizer: str, max_length: int, **changes) -> dict:
    """Returns the stage that makes a transfer set: one record a row, without labels."""
    return _records(source, tokenizer, max_length, {"layout": "rows"}, **changes)


def labelled(
    source: dict, tokenizer: str, max_length: int, labels: tuple[str, ...], **changes
) -> dict:
    """Returns the stage that makes a labelled set for classification."""
    examples = {"layout": "rows", "task": "classification", "labels": labels}
    return _records(source, tokenizer, max_length, examples, **changes)


def multilabel(
    source: dict, tokenizer: str, max_length: int, labels: tuple[str, ...], **changes
) -> dict:
    """Returns the stage that makes a labelled set whose rows have any number of labels each."""
    examples = {"layout": "rows", "task": "multilabel", "labels": labels}
    return _records(source, tokenizer, max_length, examples, **changes)


def rated(source: dict, tokenizer: str, max_length: int, **changes) -> dict:
    """Returns the stage that makes a set labelled with numbers, for regression."""
    return _records(
        source, tokenizer, max_length, {"layout": "rows", "task": "regression"}, **changes
    )


def _records(source, tokenizer: str, max_length: int, examples: dict, **changes) -> dict:
    return {
        "kind": "records",
        "source": source,
        "tokenizer": tokenizer,
        "max_length": max_length,
        "examples": examples,
        **changes,
    }


def lengths(longest: int, step: int = 8) -> tuple[int, ...]:
    """Returns the padded lengths that waste little on text of any length: every `step` tokens up to
    the longest. Each is a program, compiled when a batch first has it.
    """
    return (*range(step, longest, step), longest)


def data(records: str, batch: int, lengths: tuple[int, ...], **changes) -> dict:
    """Returns what a training stage reads."""
    return {"records": records, "batch": batch, "lengths": lengths, **changes}


def pretrain(model: dict, data: dict, length: dict, optimizer: dict, **changes) -> dict:
    """Returns a stage of masked language modelling."""
    return _train("mlm", model, data, length, optimizer, changes)


def distill(model: dict, data: dict, length: dict, optimizer: dict, **changes) -> dict:
    """Returns a stage that learns a task from stored teacher logits (`data.logits`)."""
    return _train("distill", model, data, length, optimizer, changes)


def lm_distill(model: dict, data: dict, length: dict, optimizer: dict, **changes) -> dict:
    """Returns a stage that learns the language of `objective.teacher`, a masked language model."""
    return _train("lm_distill", model, data, length, optimizer, changes)


def finetune(model: dict, data: dict, length: dict, optimizer: dict, **changes) -> dict:
    """Returns a stage that learns a task from labels."""
    return _train("classify", model, data, length, optimizer, changes)


def _train(
    objective: str, model: dict, data: dict, length: dict, optimizer: dict, changes: dict
) -> dict:
    changes = dict(changes)
    return {
        "kind": "train",
        "model": model,
        "objective": {"kind": objective, **changes.pop("objective", {})},
        "data": data,
        "length": length,
        "optimizer": optimizer,
        **changes,
    }


def label(teacher: str, records: str, lengths: tuple[int, ...], **changes) -> dict:
    """Returns the stage that labels every row of a dataset with a teacher's outputs."""
    return {"kind": "label", "teacher": teacher, "records": records, "lengths": lengths, **changes}


def compare(records: str, lengths: tuple[int, ...], models: dict[str, str], **changes) -> dict:
    """Returns the stage that compares models side by side; the first is the teacher."""
    named = tuple({"name": name, "model": model} for name, model in models.items())
    return {"kind": "compare", "models": named, "records": records, "lengths": lengths, **changes}


def start_from(stage: str, **changes) -> dict:
    """Returns the initialisation from another stage's model, `@name`, or from a model folder."""
    return {"source": stage, **changes}


def five_methods(
    *,
    student: dict,
    pretrained: str,
    transfer: dict,
    labelled: dict,
    distill_length: dict,
    finetune_length: dict,
    distill_optimizer: dict,
    finetune_optimizer: dict,
    evaluation: dict,
    seed: int,
) -> dict:
    """Returns the stages of the paper's five ways to train a student (Turc et al. 2019, section 3).

    Basic training and distillation start from random weights; PF, PD and PD-F from the pre-trained
    student.
    """

    def tuned(**changes) -> dict:
        return finetune(
            student,
            labelled,
            finetune_length,
            finetune_optimizer,
            evaluation=evaluation,
            seed=seed,
            **changes,
        )

    def distilled(**changes) -> dict:
        return distill(
            student,
            transfer,
            distill_length,
            distill_optimizer,
            evaluation=evaluation,
            seed=seed,
            **changes,
        )

    return {
        "basic": tuned(),
        "distillation": distilled(),
        "pf": tuned(init=start_from(pretrained)),
        "pd": distilled(init=start_from(pretrained)),
        "pd_f": tuned(init=start_from("@pd", head="keep")),
    }


FIVE_METHODS = (
    ("Basic training", "basic"),
    ("Distillation", "distillation"),
    ("Pre-training + fine-tuning (PF)", "pf"),
    ("Pre-trained distillation (PD)", "pd"),
    ("PD + fine-tuning (PD-F)", "pd_f"),
)
"""The report's rows for `five_methods`."""
