"""The cost of a planned training step, derived and shown; `tools.plan` fills it in."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from pd_jax.parallel import hlo, topology
from pd_jax.report.notation import duration
from pd_jax.training.ahead import Compiled

_NO_LIMIT = "unknown: no memory limit is known here; give --topology"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a stage; None where unknown. Bytes and FLOPs are per device."""

    name: str
    size: str
    place: str
    mesh: dict[str, int]
    batch: int
    length: int
    parameters: int
    state_bytes: int
    useful_flops: float
    """Of matrix products, counted by hand."""
    memory_limit: float | None = None
    fits: bool | None = None
    fault: str = ""
    compiled: Compiled | None = None
    steps: int | None = None
    price: float | None = None
    rates: topology.Chip | None = None

    @property
    def devices(self) -> int:
        """The number of devices."""
        return math.prod(self.mesh.values())

    @property
    def seconds(self) -> dict[str, float]:
        """The least seconds of a step for arithmetic, memory and network, as far as known."""
        if self.rates is None:
            return {}
        found = {"arithmetic": self.useful_flops / self.rates.flops}
        if self.compiled is not None:
            found["memory"] = self.compiled.moved_bytes / self.rates.bandwidth
            found["network"] = hlo.seconds(self.compiled.collectives, self.rates.interconnect)
        return found

    @property
    def step_seconds(self) -> float | None:
        """The roofline: the slowest of the three, as if it hid the others; launching is free."""
        return max(self.seconds.values(), default=None)

    @property
    def verdict(self) -> str:
        """Whether the step fits, and why; nothing where it was not compiled."""
        if self.fault:
            return f"no: {self.fault}"
        if self.compiled is None:
            return ""
        needed = _megabytes(self.compiled.peak_bytes)
        if self.memory_limit is None:
            return f"{_NO_LIMIT} ({needed} are needed)"
        return f"{'yes' if self.fits else 'no'}: {needed} of {_megabytes(self.memory_limit)}"

    @property
    def hours(self) -> float | None:
        """Hours for the configured length, at the roofline."""
        if self.steps is None or self.step_seconds is None:
            return None
        return self.steps * self.step_seconds / 3600

    @property
    def cost(self) -> float | None:
        """The price of these hours on all chips."""
        if self.hours is None or self.price is None:
            return None
        return self.hours * self.devices * self.price

    def as_json(self) -> dict[str, Any]:
        """Returns all figures, the derived ones included."""
        derived = ("devices", "seconds", "step_seconds", "hours", "cost")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def as_text(plan: Plan) -> str:
    """Returns one plan as lines of name and value."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    rows = [
        ("stage", f"{plan.name}: {plan.size}, batch {plan.batch} x {plan.length} tokens"),
        ("place", f"{plan.place}: {plan.devices} devices as {mesh}"),
        ("parameters", f"{plan.parameters:,}"),
        ("state", f"{_megabytes(plan.state_bytes)} a device (parameters and moments)"),
        ("useful FLOPs", f"{plan.useful_flops:.4g} a device and step (matrix products, by hand)"),
    ]
    if plan.compiled is not None:
        rows += _compiled_rows(plan, plan.compiled)
    elif plan.verdict:
        rows.append(("fits", plan.verdict))
    rows += [(f"{name} time", _milliseconds(value)) for name, value in plan.seconds.items()]
    if plan.step_seconds:
        rate = plan.batch / plan.step_seconds
        rows.append(
            ("roofline", f"{_milliseconds(plan.step_seconds)} a step, {rate:,.0f} examples/s")
        )
    if plan.hours is not None:
        least = duration(plan.hours * 3600)
        rows.append(("length", f"{plan.steps:,} steps, at least {least}"))
    if plan.cost is not None:
        rows.append(("cost", f"at least {plan.cost:,.2f} at {plan.price} a chip and hour"))
    return "\n".join(f"{name:<16} {value}" for name, value in rows)


def _compiled_rows(plan: Plan, compiled: Compiled) -> list[tuple[str, str]]:
    share = compiled.flops / plan.useful_flops
    counted = [("compiled FLOPs", f"{compiled.flops:.4g} ({share:.3f} of the useful ones)")]
    return [
        ("arguments", _megabytes(compiled.argument_bytes)),
        ("temporaries", _megabytes(compiled.temporary_bytes)),
        ("code", _megabytes(compiled.code_bytes)),
        ("fits", plan.verdict),
        *(counted if compiled.flops else []),  # XLA counts none for a GPU that is not here
        ("kernels", f"{compiled.kernels:,} a step; launching them is in none of the times"),
        *(
            (kind, f"{traffic.count} a step, {_megabytes(traffic.bytes)}")
            for kind, traffic in sorted(compiled.collectives.items())
        ),
        ("compiled in", f"{compiled.seconds:.0f} s"),
    ]


def as_markdown(plans: Sequence[Plan]) -> str:
    """Returns several plans as a Markdown table, a line each; below it, why one may not fit."""
    names = (
        "step", "parameters", "state MB", "temporary MB", "fits", "GFLOP", "compiled/useful",
        "kernels", "collectives", "MB sent", "ms a step", "examples/s", "hours",
    )  # fmt: skip
    lines = [names, ("-",) * len(names)]
    for plan in plans:
        compiled, seconds = plan.compiled, plan.step_seconds
        kinds = compiled.collectives if compiled else {}
        lines.append(
            (
                plan.name,
                f"{plan.parameters:,}",
                f"{plan.state_bytes / 1e6:,.1f}",
                f"{compiled.temporary_bytes / 1e6:,.1f}" if compiled else "",
                plan.verdict.partition(":")[0],
                f"{plan.useful_flops / 1e9:,.2f}",
                f"{compiled.flops / plan.useful_flops:.3f}" if compiled and compiled.flops else "",
                f"{compiled.kernels:,}" if compiled else "",
                ", ".join(f"{kind} {traffic.count}" for kind, traffic in sorted(kinds.items())),
                f"{sum(traffic.bytes for traffic in kinds.values()) / 1e6:,.1f}" if kinds else "",
                f"{seconds * 1e3:.3f}" if seconds else "",
                f"{plan.batch / seconds:,.0f}" if seconds else "",
                f"{plan.hours:,.2f}" if plan.hours is not None else "",
            )
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    doubts = [f"* {plan.name}: {plan.verdict}" for plan in plans if plan.fits is False]
    if any(plan.compiled and plan.memory_limit is None for plan in plans):
        doubts.append(f"* {_NO_LIMIT}")
    return "\n".join([table, *([""] if doubts else []), *doubts])


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
