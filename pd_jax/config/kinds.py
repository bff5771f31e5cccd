"""What the config dataclasses are made of: strict, frozen, and with references marked."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
_Class = TypeVar("_Class")


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

Fraction = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
ProperFraction = Annotated[float, pydantic.Field(ge=0.0, lt=1.0)]
"""A fraction below 1, for values that are divided by their difference from 1, such as dropout."""
Positive = Annotated[int, pydantic.Field(gt=0)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
"""A seed as JAX takes it: of a larger number it would drop the upper bits."""


def several(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the names in a field that may have one, several, or none."""
    return (named,) if isinstance(named, str) else named or ()


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
