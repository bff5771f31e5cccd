"""What the config dataclasses are made of: strict, frozen, and with references marked."""

from typing import Annotated

import pydantic
from pydantic.dataclasses import dataclass

_STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
frozen = dataclass(frozen=True, kw_only=True, config=_STRICT)


class ReferenceMark:
    """Marks a string type as a reference, for `reading.map_references`."""


Reference = Annotated[str, ReferenceMark()]
"""`@stage`, `@stage/file`, or a path."""

Fraction = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
Positive = Annotated[int, pydantic.Field(gt=0)]


def require(condition: bool, message: str) -> None:
    """Raises ValueError, which pydantic turns into a config error, unless the condition holds."""
    if not condition:
        raise ValueError(message)
