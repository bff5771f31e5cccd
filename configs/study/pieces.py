"""What the studies share: one recipe for every kind of stage, and the grid.

A `Setting` collects the stages of a study as they are requested: equal ones once, under one name.
Using a name for a different stage is an error, so that a name states all that is special to a
stage.
"""

import dataclasses
from collections.abc import Iterable

from configs import common
from configs.study import arguments
from configs.study.sources import TASKS, TRANSFER, Sources

LENGTHS = (16, 32, 64)

RATES = {
    "pre-training": 3e-3,  # half for a model that is grown from another
    "teacher": 1e-3,
    "basic": 1e-3,
    "distillation": 3e-3,
    "PF": 3e-3,
    "PD": 3e-3,
    "PD-F": 3e-4,  # of its last fine-tuning
    "patient": 1e-3,
}
"""Peak learning rates, chosen on the dev set as in the paper, but for seed 0 alone.

At 3e-4, 1e-3 and 3e-3 the teacher has 78.9, 79.5 and 67.5 %, PF 70.1, 75.8 and 76.4; at 1e-3 and
3e-3 basic has 75.6 and 66.4, distillation 77.4 and 78.6, PD 77.4 and 79.7. Pre-trained weights are
about five times as large as fresh ones, so a step of the same size changes them less. On another
machine, after another pre-training, distillation has 78.3 at 3e-3 and 56.5 at 6e-3, PF 77.9 and
77.1, PD 79.4 at both: a pre-trained student tolerates rates at which a fresh one learns nothing.
Patient distillation, which starts with the teacher's own layers, has 69.2, 77.5 and 76.1 at 3e-4,
1e-3 and 3e-3.
"""

LONG_RATES = {"PF": 1e-3, "distillation": 1e-3}
"""Rates from 2,000 steps of fine-tuning and 1,200 of distillation on; all without dropout, seed 0.

With 4,096 words, PF has 77.1 % on dev at 3e-3, its rate for 400 steps, and 78.6 at 1e-3; basic
training has 66.1 at 3e-3 and 77.2 at 1e-3. With 16,384 words, distillation has 81.5 at 3e-3 and
81.8 at 1e-3, PD 83.7 and 82.9; at 3e-3 one seed of six of distillation had 78.3 on the test set,
the others 82.0 to 82.9.
"""

METHODS = ("basic", "distillation", "PF", "PD", "PD-F")
"""By the paper's names (Turc et al. 2019, section 3); the first two start from random weights."""


@dataclasses.dataclass
class Setting:
    """A study being built. Methods that add a stage return its reference, `@name`."""

    name: str
    args: dict
    task: str = "sst2"
    stages: dict = dataclasses.field(default_factory=dict)
    cells: list = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        common.one_of(TASKS, self.task, "task")

    @property
    def seeds(self) -> range:
        """The seeds to repeat every student with."""
        return range(self.args["seeds"])

    @property
    def sizes(self) -> tuple[str, ...]:
        """The students' sizes."""
        return arguments.sizes(self.args["sizes"])

    def rate(self, of: str) -> float:
        """Returns the peak learning rate of a key of `rates`."""
        given = {"pre-training": "pretrain_rate", "teacher": "teacher_rate"}.get(of, "rate")
        return self.args[given] or self.rates[of]

    @property
    def rates(self) -> dict[str, float]:
        """The own peak rates of pre-training, teachers and methods, for as many steps as here."""
        longer = {
            "PF": self.args["finetune"] >= 2_000,
            "distillation": self.args["distill"] >= 1_200,
        }
        return RATES | {name: LONG_RATES[name] for name, is_so in longer.items() if is_so}

    def rows(self, *sets: str) -> int:
        """Returns the rows of each of these transfer sets to learn from: equally many, as many as
        the study asks for or the smallest has.
        """
        return min(self.args["transfer_rows"], *(TRANSFER[name].rows for name in sets))

    def add(self, name: str, stage: dict) -> str:
        """Adds a stage, and returns `@name`: a word, so that `--config.stages.NAME...` finds it."""
        if self.args["dtype"] != "float32":
            stage = arguments.computed_in(self.args["dtype"], stage)
        if self.stages.setdefault(name, stage) != stage:
            raise ValueError(f"two different stages are named {name!r}; give them different names")
        return f"@{name}"

    # ---- text ----------------------------------------------------------------------------------

    @property
    def sources(self) -> Sources:
        """Where the study's text comes from."""
        return Sources(self.args["smoke"], self.args["transfer_rows"])

    @property
    def vocabulary(self) -> str:
        """The vocabulary of all records, from the general text."""
        text = self.sources.corpus("general")
        return self.add("vocabulary", common.tokenizer(text, self.args["vocabulary"]))

    def labelled(self, name: str) -> str:
        """Returns a labelled set of the task: train, dev or test."""
        source, labels = self.sources.labelled(self.task, name), TASKS[self.task]["labels"]
        stage = common.labelled(source, self.vocabulary, LENGTHS[-1], labels)
        return self.add(f"{self.task}_{name}", stage)

    def held_out(self) -> str:
        """Returns the held-out transfer rows."""
        source = self.sources.held_out(self.task)
        stage = common.unlabelled(source, self.vocabulary, LENGTHS[-1])
        return self.add(f"{self.task}_unseen", stage)

    def transfer(self, name: str) -> str:
        """Returns a transfer set by name, or `own`: the labelled set's own rows."""
        if name == "own":
            return self.labelled("train")
        apart = self.sources.kept_apart(self.task)
        source = self.sources.transfer(name)
        stage = common.unlabelled(source, self.vocabulary, LENGTHS[-1], exclude=apart)
        return self.add(f"{self.task}_{name}", stage)

    def corpus(self, name: str) -> str:
        """Returns text to pre-train on. It serves every task, so that their studies share it, but
        those that the data folder lacks.
        """
        served = [task for task in TASKS if task == self.task or not self.sources.lacks(task)]
        apart = self.sources.kept_apart(*served)
        source = self.sources.corpus(name)
        more = {"next_sentence": True} if self.args["next_sentence"] else {}
        if more and self.args["smoke"]:
            more["shards"] = 1  # several would have one of the few documents each
        stage = common.corpus(source, self.vocabulary, LENGTHS[-1], exclude=apart, **more)
        return self.add(f"corpus_{name}", stage)

    # ---- models --------------------------------------------------------------------------------

    def learner(self, size: str, **changes) -> dict:
        """Returns a model that learns the task, teacher or student, with the study's dropout."""
        share = self.args["dropout"]
        return common.compact(size, **{"dropout": share, "attention_dropout": share, **changes})

    def pretrained(
        self, size: str, corpus: str = "general", *, seed: int = 0, steps: int | None = None
    ) -> str:
        """Returns a pre-trained model: one of each size, shared by the students of every seed."""
        usual = self.args["pretrain"]
        parts = [corpus] if corpus != "general" else []
        if steps not in (None, usual):
            parts.append(f"{steps}_steps")
        name = ["pretrain", size, *parts]
        return self._pretrained(name, size, steps or usual, seed, corpus=corpus)

    def pretrained_deep(self, size: str, *, seed: int = 0) -> str:
        """Returns the pre-trained model of a teacher, grown from a shallower one of that seed."""
        more, shallow = {}, self.args["grow"]
        if shallow:
            layers = arguments.repeated_layers(shallow, size)
            start = self.pretrained(shallow, seed=seed)
            init = common.start_from(start, layers=layers)
            more = {"rate": self.rate("pre-training") / 2, "init": init}
        steps = self.args["teacher_pretrain"]
        return self._pretrained(["pretrain_teacher", size], size, steps, seed, **more)

    def _pretrained(
        self, name: list[str], size: str, steps: int, seed: int, *, corpus: str = "general", **more
    ) -> str:
        named = [*name, f"seed{seed}"] if seed else name
        recipe = {"rate": self.rate("pre-training"), **more}
        if self.args["next_sentence"]:
            recipe["objective"] = {"next_sentence": True}
        stage = common.pretrain_compact(
            common.compact(size), self.corpus(corpus), steps, seed=seed, **recipe
        )
        return self.add("_".join(named), stage)

    def teachers(self, *, rows: int | None = None, seed: int = 0) -> tuple[str, ...]:
        """Returns the teachers whose outputs are averaged."""
        return tuple(
            self.teacher(rows=rows, seed=seed, number=number)
            for number in range(self.args["teachers"])
        )

    def teacher(self, *, rows: int | None = None, seed: int = 0, number: int = 0) -> str:
        """Returns a teacher fine-tuned on `rows` labelled rows.

        Teachers differ by seed in head, order and dropout, and share one pre-training. No student
        has their seeds, with which it would begin with a teacher's own head.
        """
        size = self.args["teacher"]
        limit = {"rows": rows} if rows else {}
        special = [*([f"{rows}_{seed}"] if rows else []), *([f"no{number}"] if number else [])]
        return self.add(
            "_".join([f"{self.task}_teacher", *special]),
            common.finetune(
                self.learner(size),
                common.data(self.labelled("train"), 64, LENGTHS, **limit),
                {"steps": self.args["teacher_finetune"]},
                common.adamw(self.rate("teacher")),
                init=common.start_from(self.pretrained_deep(size)),
                evaluation=self.evaluation(),
                seed=seed + 1_000 * (number + 1),
            ),
        )

    def labels(self, records: str, teachers: tuple[str, ...]) -> str | tuple[str, ...]:
        """Returns a teacher's logits for a dataset, or those of each of several."""
        first, *others = (
            self.add(
                f"labels_{records[1:]}_by_{teacher[1:]}", common.label(teacher, records, LENGTHS)
            )
            for teacher in teachers
        )
        return (first, *others) if others else first

    def evaluation(self, teachers: tuple[str, ...] = ()) -> dict:
        """Returns what every model is scored on, once, at its end.

        Several teachers label the labelled sets, too, so that their mean can be scored.
        """
        final = {name: self.labelled(name) for name in TASKS[self.task]["sets"]}
        if not teachers:
            return {"final": final, "batch": 256}
        asked = {"unseen": self.held_out(), **(final if len(teachers) > 1 else {})}
        return {
            "final": {**final, **asked},
            "logits": {name: self.labels(records, teachers) for name, records in asked.items()},
            "batch": 256,
        }

    def student(
        self,
        method: str,
        size: str,
        seed: int,
        *,
        transfer: str | None = None,
        rows: int | None = None,
        labelled: int | None = None,
        start: dict | None = None,
        objective: dict | None = None,
        model: dict | None = None,
        name: str = "",
        called: str = "",
        place: dict | None = None,
    ) -> str:
        """Adds a student and all that it needs, as a cell at (method, size, seed) and `place`.

        Args:
          method: one of METHODS, which `start` and `objective` may modify.
          size: the student's.
          seed: of the student alone; teacher and pre-trained model are shared.
          transfer: name of the transfer set; by default the task's own.
          rows: how many rows of the transfer set; by default the study's, or all of its own.
          labelled: how many rows of the labelled set, by seed, also for the teacher.
          start: how to initialise, in place of the method's way.
          objective: keys of the distillation.
          model: keys of the student, such as `dropout`.
          name: what to add to the stages' names, for what is special to them.
          called: the cell's method, if it is not one of METHODS.
          place: where the cell stands on further axes.
        """
        teachers = self.teachers(rows=labelled, seed=seed if labelled else 0)
        if start is None and method not in ("basic", "distillation"):
            start = common.start_from(self.pretrained(size))
        whole, evaluation = self.learner(size, **(model or {})), self.evaluation(teachers)
        shared = {"model": whole, "init": start or {}, "evaluation": evaluation, "seed": seed}
        rate = self.rate("PD" if method == "PD-F" else method)
        stem = "_".join(filter(None, [self.task, "{method}", size, name, f"{seed}"]))
        if method in ("basic", "PF"):
            stage = self._tuned(labelled, rate, shared)
        else:
            stage = self._distilled(transfer, rows, teachers, rate, objective, shared)
        if method == "PD-F":
            again = common.start_from(self.add(stem.format(method="pd"), stage), head="keep")
            stage = self._tuned(labelled, self.rate(method), {**shared, "init": again})
        found = self.add(stem.format(method=method.lower().replace("-", "_")), stage)
        self._mean_of_teachers(teachers, found)
        self.cell(found, called or method, size, seed, **(place or {}))
        return found

    def _mean_of_teachers(self, teachers: tuple[str, ...], stage: str) -> None:
        """Adds the score of several teachers together, next to the first one's cell.

        It is read from the evaluation of one of their students.
        """
        if len(teachers) == 1:
            return
        for first in [cell for cell in self.cells if cell["stage"] == teachers[0][1:]]:
            axes = {**first["axes"], "method": "mean of teachers"}
            if all(cell["axes"] != axes for cell in self.cells):
                self.cells.append({"stage": stage[1:], "axes": axes, "of": "teacher"})

    def _distilled(
        self,
        transfer: str | None,
        rows: int | None,
        teachers: tuple[str, ...],
        rate: float,
        objective: dict | None,
        shared: dict,
    ) -> dict:
        name = transfer or TASKS[self.task]["transfer"]
        records = self.transfer(name)
        logits = self.labels(records, teachers)
        if name != "own" and not self.args["smoke"]:
            rows = rows or self.rows(name)
        limit = {"rows": rows} if rows else {}
        return common.distill(
            data=common.data(records, 128, LENGTHS, logits=logits, **limit),
            length={"steps": self.args["distill"]},
            optimizer=common.adamw(rate),
            **({"objective": objective} if objective else {}),
            **shared,
        )

    def cell(self, stage: str, method: str, size: str, seed: int, **axes) -> None:
        """Adds a stage, `@name`, as a cell."""
        place = {"method": method, "size": size, "seed": seed, **axes}
        self.cells.append({"stage": stage[1:], "axes": place})

    def _tuned(self, labelled: int | None, rate: float, shared: dict) -> dict:
        rows = {"rows": labelled} if labelled else {}
        return common.finetune(
            data=common.data(self.labelled("train"), 64, LENGTHS, **rows),
            length={"steps": self.args["finetune"]},
            optimizer=common.adamw(rate),
            **shared,
        )

    def teacher_cell(
        self, *, rows: int | None = None, seed: int = 0, place: dict | None = None
    ) -> None:
        """Adds the teacher itself as a cell, or each of several.

        Without a `place`, it is a line across the figures.
        """
        for number, stage in enumerate(self.teachers(rows=rows, seed=seed)):
            axes = {"method": "teacher", "seed": seed + 1_000 * number, **(place or {})}
            self.cells.append({"stage": stage[1:], "axes": axes})

    # ---- the study -----------------------------------------------------------------------------

    def config(
        self, title: str, *, claims: Iterable[dict], figures: Iterable[dict], note: str = ""
    ):
        """Returns the study as a locked config."""
        task = TASKS[self.task]
        measures = (
            {"quantity": "accuracy", "sets": task["judged"]},
            {"quantity": "agreement", "sets": ("unseen",)},
            {"quantity": "kl", "sets": ("unseen",)},
        )
        study = {
            "cells": tuple(self.cells),
            "measures": measures,
            "claims": tuple(claims),
            "figures": tuple(figures),
            "note": note,
        }
        longer = ", trained longer" if self.args["long"] else ""
        report = {"title": title + longer, "reference": task["reference"]}
        return common.locked(
            {
                "name": self.name,
                "stages": self.stages,
                "study": study,
                "report": report,
                "run": {"log_steps": 100, "tensorboard": False, "keep_checkpoints": 1},
            }
        )
