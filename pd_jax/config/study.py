"""A study: which stages are results, their places on its axes, and the claims to check.

A study is a pipeline over a grid. Its stages are those of all its chains, equal ones named once;
its cells list which of them are results. Seeds are an axis like any other: comparisons are made
seed by seed.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic

from pd_jax.config.kinds import frozen, require
from pd_jax.config.scores import SCORES
from pd_jax.errors import did_you_mean

AxisValue = str | int | float

SEED = "seed"
"""The axis over which cells are repetitions of one another."""


@frozen
class Cell:
    """One result: the training stage that has it, and its place on every axis (`seed` is one).

    `of` is the stage's own model, or its teacher (the mean of several): that one's accuracy where
    the stage is scored against it on a labelled set.
    """

    stage: str
    axes: Mapping[str, AxisValue]
    of: Literal["student", "teacher"] = "student"

    def __post_init__(self) -> None:
        require(SEED in self.axes, f"cell of stage {self.stage!r} needs a place on the axis 'seed'")


@frozen
class Measure:
    """A quantity to judge by, over all rows of some evaluation sets together; over one set where it
    is not a mean over rows.
    """

    quantity: Literal["accuracy", "agreement", "kl", "f1", "matthews", "pearson", "spearman"]
    sets: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.sets) > 0, "sets must name one evaluation set or more")
        require(
            self.is_mean or len(self.sets) == 1,
            f"{self.quantity} is not a mean over rows; name one set, not {', '.join(self.sets)}",
        )

    @property
    def is_mean(self) -> bool:
        """Whether the quantity is a mean over rows."""
        return SCORES[self.quantity].mean


@frozen
class Term:
    """`weight` times the measure of the cells at these places, one for each seed."""

    weight: float
    axes: Mapping[str, AxisValue]


@frozen
class Contrast:
    """A sum of terms, and where it was taken (`L2_H128`, `20,000 rows`); weights that add up to 0
    make it a difference.
    """

    at: str
    terms: tuple[Term, ...]


@frozen
class Claim:
    """A sentence that holds where the mean of its contrasts is above 0, or within `near` of it."""

    text: str
    contrasts: tuple[Contrast, ...]
    near: Annotated[float, pydantic.Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        require(len(self.contrasts) > 0, f"claim {self.text!r} needs a contrast")


@frozen
class Figure:
    """Lines of the measures over one axis: one for each value of `series`, a chart for each of
    `panels`.

    Cells without a place on the axis `x` are drawn as horizontal lines. `paper` names the figure of
    the paper whose values are shown beside them.
    """

    title: str
    x: str
    series: str = "method"
    panels: str | None = None
    scale: Literal["category", "linear", "log"] = "category"
    paper: str = ""


@frozen
class Study:
    """The grid's results, what they are judged by, and what is claimed of them."""

    cells: tuple[Cell, ...]
    measures: tuple[Measure, ...]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    note: str = ""
    """What a reader of the report should know of the setting."""

    def __post_init__(self) -> None:
        require(len(self.cells) > 0 and len(self.measures) > 0, "a study needs cells and measures")
        places = [tuple(sorted(cell.axes.items())) for cell in self.cells]
        twice = [place for place in places if places.count(place) > 1]
        require(not twice, f"two cells are at {dict(twice[0]) if twice else ''}")
        known = {name for cell in self.cells for name in cell.axes}
        known |= {"layers", "hidden"} if "size" in known else set()
        for figure in self.figures:
            for axis in (figure.x, figure.panels or figure.x):
                require(
                    axis in known,
                    f"figure {figure.title!r} names the axis {axis!r}, on which no cell has a "
                    f"place{did_you_mean(axis, known)}",
                )
        for claim in self.claims:
            for term in (term for contrast in claim.contrasts for term in contrast.terms):
                require(
                    bool(self.at(term.axes)),
                    f"claim {claim.text!r} refers to {dict(term.axes)}, where there is no cell",
                )

    def at(self, axes: Mapping[str, AxisValue]) -> dict[AxisValue, Cell]:
        """Returns the cells at exactly these places, by seed."""
        return {
            cell.axes[SEED]: cell
            for cell in self.cells
            if {name: value for name, value in cell.axes.items() if name != SEED} == dict(axes)
        }
