"""What was measured of models, as `done.json` holds it; reports read it without loading jax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import FiniteFloat


@dataclasses.dataclass(frozen=True)
class Check:
    """One exported file, its size, and how it compares with ours on this machine's CPU.

    `difference` is the largest of any output over probes of several sizes, `scale` our largest
    output; both are None where the other program is not installed. Times are of one text of
    `tokens`, which older records do not say.
    """

    file: str
    megabytes: FiniteFloat
    program: str
    difference: FiniteFloat | None = None
    scale: FiniteFloat | None = None
    milliseconds: FiniteFloat | None = None
    our_milliseconds: FiniteFloat | None = None
    tokens: int | None = None

    def sentence(self) -> str:
        """Returns the check in words."""
        size = f"{self.file} ({self.megabytes:.2f} MB)"
        if self.difference is None:
            return f"{size}: not compared, because {self.program} is not installed"
        return (
            f"{size}: outputs of {self.program} differ from ours by at most {self.difference:.2g} "
            f"(outputs up to {self.scale:.3g}); one text of {self.tokens} tokens takes "
            f"{self.milliseconds:.2f} ms, ours {self.our_milliseconds:.2f} ms"
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model as one program computes it on one device.

    `scores` are the task's by name, with agreement and kl where the model is held against another;
    `difference` is the largest of any logit from what jax computes first, None for that itself;
    `milliseconds` and `rows_per_second` are by the number of texts at once, of `tokens` each.
    """

    name: str
    parameters: int
    layers: int
    hidden: int
    program: str
    device: str
    megabytes: FiniteFloat
    scores: Mapping[str, float | None]
    difference: FiniteFloat | None
    tokens: int
    milliseconds: Mapping[str, FiniteFloat]
    rows_per_second: Mapping[str, FiniteFloat]

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)
