"""What the config dataclasses are made of: strict, frozen, and with references marked."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
_Class = TypeVar("_Class")
_Value = TypeVar("_Value")


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def frozen(kind: type[_Class]) -> type[_Class]:
    """Returns the class as a frozen dataclass whose values are checked when it is made."""
    return dataclass(kind, frozen=True, kw_only=True, config=_STRICT)  # type: ignore[return-value]


class ReferenceMark:
    """Marks a string type as a reference, for `reading.map_references`: `@stage`, `@stage/file`, or
    a path.
    """

    def __init__(self, *kinds: str):
        """Takes the kinds of stage that it may name, or `kind/file` for one of their files."""
        self.kinds = kinds


TextReference = Annotated[str, ReferenceMark("synthetic")]
TokenizerReference = Annotated[
    str, ReferenceMark("tokenizer", "train", "export", "records/tokenizer")
]
RecordsReference = Annotated[str, ReferenceMark("records")]
ModelReference = Annotated[str, ReferenceMark("train", "export")]
LogitsReference = Annotated[str, ReferenceMark("label")]


class Reference(NamedTuple):
    """A stage, and a file in its output or nothing."""

    stage: str
    inside: str


def referred(reference: str) -> Reference | None:
    """Returns what `@stage` or `@stage/file` refers to; None for a path."""
    if not reference.startswith("@"):
        return None
    stage, _, inside = reference[1:].partition("/")
    return Reference(stage, inside)


Task = Literal["classification", "regression", "multilabel"]
Precision = Literal["float32", "bfloat16"]

Fraction = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
ProperFraction = Annotated[float, pydantic.Field(ge=0.0, lt=1.0)]
"""A fraction below 1, for values that are divided by their difference from 1, such as dropout."""
Positive = Annotated[int, pydantic.Field(gt=0)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
"""A seed as JAX takes it: of a larger number it would drop the upper bits."""


def several(held: _Value | tuple[_Value, ...] | None) -> tuple[_Value, ...]:
    """Returns the values of a field that may have one, several, or none."""
    if held is None:
        return ()
    return held if isinstance(held, tuple) else (held,)


def require_rising(lengths: Sequence[int]) -> None:
    """Raises ValueError unless there are one or more padded lengths, shortest first."""
    require(
        len(lengths) > 0 and list(lengths) == sorted(set(lengths)),
        "lengths must rise, for example (32, 64, 128)",
    )


_NAME = re.compile(r"\w[\w .+=-]{0,59}")


def require_name(what: str, name: str) -> None:
    """Raises ValueError unless a name may be that of a file, and may be referred to."""
    require(
        _NAME.fullmatch(name) is not None,
        f"{what} {name!r} is not a name for a file; begin it with a letter or digit, and go on "
        "with at most 59 letters, digits, spaces or . _ - + =",
    )


def require(condition: bool, message: str) -> None:
    """Raises ValueError, which pydantic turns into a config error, unless the condition holds."""
    if not condition:
        raise ValueError(message)
