"""Writes results/README.md from the studies' JSON beside it: no figure there is copied by hand.

Run:    python results/page.py
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

from pd_jax.report import notation, study_text
from pd_jax.report.statistics import Interval
from pd_jax.report.study import shown
from pd_jax.report.table import markdown_line

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE / "README.md"

ABOUT = """\
# What the studies found

Made by `python results/page.py` from the JSON here, which `pd_jax.tools.report --json` wrote. Every
study has its page beside: figures, curves, configs, and the environment of every stage.

Means ± deviations are over seeds. A claim's differences are in points (KL in nats), with 95 %
intervals over seeds, paired; it holds or fails only where the interval over test examples excludes
0 on the same side too. Agreement and KL are those with the teacher, on 20,000 held-out rows of the
transfer set. One teacher and one pre-trained model of a kind serve all seeds of a study, unless it
says otherwise: the intervals tell nothing of other pre-trainings, and nothing is corrected for the
number of claims. Studies made on different machines began from pre-trainings of their own, and some
configs have changed since a study was made: `git checkout` of a commit that its line names has the
config of then (stages of several commits may serve one study; `+`: with uncommitted changes). What
was tried beside them: [tried.md](tried.md).
"""


def page() -> str:
    """Returns the page: a section for every study, by task and name."""
    files = sorted(HERE.glob("*/*.json"))
    return "\n".join([ABOUT, *(line for file in files for line in _section(file))])


def _section(file: pathlib.Path) -> Iterator[str]:
    study = json.loads(file.read_text(encoding="utf-8"))
    name = file.relative_to(HERE).with_suffix("")
    environment = study["environment"]
    yield f"## {study['title']} ({name.as_posix()})\n"
    yield f"`{study['command']}`\n"
    yield (
        f"{study['stages']['done']} of {study['stages']['of']} stages, "
        f"{notation.duration(study['seconds'])} of processes in all; {environment['processor']}, "
        f"{environment['cores']} cores, jax {environment['jax']}, commit "
        f"{', '.join(_several(environment['commit']))}. [Page]({name.as_posix()}.html)\n"
    )
    yield from _groups(study)
    yield from _claims(study)
    yield from (f"* {missing['axes']}: {missing['note']}" for missing in study["missing"])


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _groups(study: dict) -> Iterator[str]:
    measures, places = study["measures"], [group["axes"] for group in study["groups"]]
    axes = [axis for axis in _named(places) if len({place.get(axis) for place in places}) > 1]
    seeds = [group[measures[0]]["seeds"] for group in study["groups"]]
    yield from _head([*axes, "seeds"], [study_text.measure_title(measure) for measure in measures])
    for group, count in zip(study["groups"], seeds, strict=True):
        places_shown = [shown(group["axes"].get(axis)) for axis in axes]
        yield markdown_line([*places_shown, str(count), *(_score(group, one) for one in measures)])
    yield ""


def _claims(study: dict) -> Iterator[str]:
    yield from _head(
        ["claim", "verdict"], [study_text.measure_title(one) for one in study["measures"]]
    )
    for claim in study["claims"]:
        cells = [_difference(measure, claim["by"][measure]) for measure in study["measures"]]
        yield markdown_line([claim["claim"], claim["verdict"], *cells])
    yield ""


def _head(words: Sequence[str], numbers: Sequence[str]) -> Iterator[str]:
    yield markdown_line([*words, *numbers])
    yield markdown_line(["---"] * len(words) + ["---:"] * len(numbers))


def _named(places: Sequence[dict]) -> list[str]:
    """Returns the axes that a study's config names; `layers` and `hidden` follow from the size."""
    axes = dict.fromkeys(axis for place in places for axis in place)
    return [axis for axis in axes if axis not in ("layers", "hidden")]


def _score(group: dict, measure: str) -> str:
    found = group[measure]
    if found["mean"] is None:
        return notation.MISSING
    return study_text.spread_text(measure, found["mean"], found["deviation"])


def _difference(measure: str, judged: dict) -> str:
    """Returns a difference, its interval over seeds, and the measure's own verdict."""
    found = judged["over_seeds"]
    if found["mean"] is None:
        return notation.MISSING
    parts = [study_text.difference(measure, found["mean"])]
    if found["interval"]:
        interval = Interval(found["mean"], *found["interval"], found["seeds"])
        parts.append(study_text.range_text(measure, interval))
    return " ".join([*parts, judged["verdict"]])


def main() -> int:
    """Returns 0 after the page was written."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
