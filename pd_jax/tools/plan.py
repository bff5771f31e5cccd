"""Tells, without the hardware, if a training stage fits a TPU slice or GPUs, and what it will take.

python -m pd_jax.tools.plan --config=FILE[:ARG] [--config.x.y=z] --stage=NAME --topology=v5e:16x16
python -m pd_jax.tools.plan --sizes=all --jobs=mlm,distill,finetune --batch=256 --topology=h100:1

Lowers and compiles the same step that training uses: for a named slice by libtpu (extra `[tpu]`),
for named GPUs by jax's CUDA plugin (extra `[gpu]`, without a driver), and without --topology for
this machine's devices. --abstract lowers only, in seconds, for any mesh.
"""

import argparse
import collections
import dataclasses
import math
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import export
from jax.sharding import AbstractMesh, AxisType, Mesh

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.config import flag
from pd_jax.config.reading import pipeline_from
from pd_jax.errors import ConfigError, MeshError
from pd_jax.models import sizes
from pd_jax.parallel import mesh as mesh_lib
from pd_jax.parallel import topology
from pd_jax.progress import Progress
from pd_jax.stages.declared import declared, vocabulary_of
from pd_jax.stages.objectives import Facts, make_objective
from pd_jax.tools import command, options, step_cost
from pd_jax.tools.step_cost import Plan
from pd_jax.training import ahead

_OF_SIZES: dict[str, Any] = {
    "jobs": "mlm",
    "batch": 256,
    "length": 128,
    "steps": 1_000_000,
    "micro_batches": 1,
    "remat": False,
}
"""The options that --sizes takes, with their defaults; a config's stages have their own values."""
_LABELS = 2
_JOBS: dict[str, dict[str, Any]] = {
    "mlm": {"objective": {"kind": "mlm"}},
    "distill": {"objective": {"kind": "distill"}},
    "finetune": {"objective": {"kind": "classify"}},
}


@dataclasses.dataclass(frozen=True)
class Request:
    """One stage to plan."""

    name: str
    stage: config_lib.TrainStage
    facts: Facts
    rows: int | None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where to plan for: a mesh, and its chip where the hardware is named."""

    name: str
    mesh: Mesh | AbstractMesh
    chip: topology.Chip | None
    platform: str
    memory: float | None
    """Bytes that a device has for a step; None where they are unknown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every stage was planned, and 1 when it is known that one does not fit."""
    arguments = _parse(argv)
    options.check_used(arguments, "topology", "price_per_chip_hour")
    options.check_used(arguments, "task", "labels")
    options.check_output(arguments.json, option="--json")
    if arguments.config:
        file = arguments.config.partition(":")[0]
        options.check_unread(arguments.json, [file], option="--json")
    run, requests = _requests(arguments)
    place = _place(arguments, run)
    print(f"planning {len(requests)} steps for {place.name}", file=sys.stderr, flush=True)
    plans: list[Plan] = []
    with Progress("planning", total=len(requests), unit="steps") as progress:
        for request in requests:
            plans.append(_plan(request, place, arguments))
            progress.advance(1)
            if arguments.json:
                files.write_json(arguments.json, [plan.as_json() for plan in plans])
    print(step_cost.as_text(plans[0]) if len(plans) == 1 else step_cost.as_markdown(plans))
    found = "not compiled" if arguments.abstract else _found(plans)
    made = f": {arguments.json}" if arguments.json else ""
    print(f"planned {len(plans)} steps for {place.name}, {found}{made}")
    return 1 if any(plan.fits is False for plan in plans) else 0


def _found(plans: Sequence[Plan]) -> str:
    """Returns how many plans fit, do not, or may, as far as is known."""
    counts = collections.Counter(plan.fits for plan in plans)
    words = {True: "fit", False: "too large", None: "may fit"}
    return ", ".join(f"{counts[fits]} {word}" for fits, word in words.items() if counts[fits])


def _plan(request: Request, place: Place, arguments: argparse.Namespace) -> Plan:
    """Returns the figures of one stage."""
    stage, facts = request.stage, request.facts
    assert facts.vocabulary is not None, "_completed ensures it"
    shape = sizes.bert_config(stage.model, vocab_size=facts.vocabulary.size, compute=stage.compute)
    rows, length = stage.data.batch, stage.data.lengths[-1]
    steps = _steps(stage, request.rows)
    objective = make_objective(stage, shape, facts)
    made = ahead.lower(
        objective,
        stage,
        batch=ahead.batch_shapes(objective, rows, length),
        steps=steps or 1,
        mesh=place.mesh,
        platform=place.platform,
    )
    mesh = dict(place.mesh.shape)
    plan = Plan(
        name=request.name,
        size=sizes.canonical(stage.model.size),
        place=place.name,
        mesh=mesh,
        batch=rows,
        length=length,
        parameters=made.parameters,
        state_bytes=made.state_bytes,
        useful_flops=objective.flops(rows, length) / math.prod(mesh.values()),
        memory_limit=place.memory,
        steps=steps,
        price=arguments.price_per_chip_hour,
        rates=place.chip,
    )
    if arguments.abstract:
        return plan
    try:
        compiled = ahead.compile_step(made)
    except ahead.DoesNotFit as fault:
        return dataclasses.replace(plan, fits=False, fault=str(fault))
    fits = None if plan.memory_limit is None else compiled.peak_bytes <= plan.memory_limit
    return dataclasses.replace(plan, fits=fits, compiled=compiled)


def _steps(stage: config_lib.TrainStage, rows: int | None) -> int | None:
    """Returns the stage's steps; None for a length in epochs of a dataset that is absent."""
    if stage.length.epochs is not None and rows is None:
        return None
    return stage.length.in_steps(rows=rows or 0, batch=stage.data.batch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.plan",
        description="Plan a training stage for hardware that need not be present.",
    )
    number = options.at_least(1)
    what = parser.add_argument_group("what: a stage of a config, or sizes and jobs")
    what.add_argument(
        "--config", help="config file, as FILE or FILE:ARG; --config.KEY=VALUE changes a key of it"
    )
    what.add_argument("--stage", help="a training stage of it; needed where it has several")
    what.add_argument("--sizes", help="model sizes, L4_H256,Base, or all for the grid of 24")
    what.add_argument("--vocab-size", type=number, help="where no stage or file gives it")
    tasks = typing.get_args(config_lib.Task)
    what.add_argument("--task", choices=tasks, help="likewise")
    what.add_argument("--labels", type=number, help=f"labels of --task (default: {_LABELS})")
    rows = "with --config: rows of the dataset, for a length in epochs"
    what.add_argument("--rows", type=number, help=rows)
    add, usual = parser.add_argument_group("with --sizes").add_argument, _OF_SIZES
    add("--jobs", help=f"of {','.join(_JOBS)} (default: {usual['jobs']})")
    add("--batch", type=number, help=f"global batch (default: {usual['batch']})")
    add("--length", type=number, help=f"tokens per row (default: {usual['length']})")
    add("--steps", type=number, help=f"default: {usual['steps']}")
    add("--micro-batches", type=number, help=f"default: {usual['micro_batches']}")
    add("--remat", action="store_true", default=None, help="recompute layers")
    where = parser.add_argument_group("where")
    where.add_argument(
        "--topology", help="v5e:16x16, v4:16x16x16, h100:1, a100:2x8; else this machine"
    )
    where.add_argument(
        "--mesh",
        metavar="DATA,FSDP,TENSOR",
        help="devices along each axis, -1 for the rest: --mesh=-1,4,1 (default: the config's)",
    )
    where.add_argument("--abstract", action="store_true", help="lower only, without its compiler")
    where.add_argument("--price-per-chip-hour", type=float, help="with --topology")
    parser.add_argument("--json", help="also write the figures to this file")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments, among them the `--config.KEY=VALUE` flags as `overrides`."""
    parser = _parser()
    arguments, arguments.overrides = parser.parse_known_args(argv)
    if arguments.overrides and not arguments.overrides[0].startswith("--config."):
        parser.error(f"unrecognized arguments: {' '.join(arguments.overrides)}")
    return arguments


def _requests(arguments: argparse.Namespace) -> tuple[config_lib.Run, list[Request]]:
    """Returns the config's settings of the run, and the stages that the arguments name."""
    if bool(arguments.config) == bool(arguments.sizes):
        raise ConfigError("give either --config or --sizes, to choose what to plan")
    options.check_used(arguments, "sizes", *_OF_SIZES)
    options.check_used(arguments, "config", "stage", "rows")
    if arguments.sizes and arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]} changes a config, not --sizes; leave it out")
    if arguments.sizes:
        return config_lib.Run(), list(_grid(arguments))
    pipeline = pipeline_from(flag.load(arguments.config, arguments.overrides))
    stages = {
        name: stage
        for name, stage in pipeline.stages.items()
        if isinstance(stage, config_lib.TrainStage)
    }
    if not stages:
        raise ConfigError(
            f"{arguments.config} has no training stage, and no other kind is planned; give a config"
            " that has one"
        )
    if arguments.stage and arguments.stage not in stages:
        raise ConfigError(
            f"--stage={arguments.stage} is not a training stage of {arguments.config}; it has "
            f"{', '.join(stages)}"
        )
    names = [arguments.stage] if arguments.stage else list(stages)
    return pipeline.run, [
        Request(
            name,
            stages[name],
            _completed(stages[name], declared(pipeline, stages[name]), arguments),
            arguments.rows,
        )
        for name in names
    ]


def _grid(arguments: argparse.Namespace) -> Iterator[Request]:
    names = sizes.GRID if arguments.sizes == "all" else options.names(arguments.sizes)
    if not names:
        raise ConfigError(f"--sizes={arguments.sizes} names no size; write some, such as L4_H256")
    given = {name: getattr(arguments, name) for name in _OF_SIZES}
    chosen = _OF_SIZES | {name: value for name, value in given.items() if value is not None}
    for job in options.names(chosen["jobs"]):
        if job not in _JOBS:
            raise ConfigError(f"--jobs={job} is not a job; give some of {', '.join(_JOBS)}")
        for size in names:
            stage = config_lib.TrainStage(
                model=config_lib.Model(size=size),
                data=config_lib.Data(
                    records="none",
                    logits="none" if job == "distill" else None,
                    batch=chosen["batch"],
                    lengths=(chosen["length"],),
                ),
                length=config_lib.Length(steps=chosen["steps"]),
                optimizer=config_lib.Optimizer(learning_rate=1e-4),
                compute=config_lib.Compute(
                    dtype="bfloat16",
                    remat=chosen["remat"],
                    micro_batches=chosen["micro_batches"],
                ),
                **_JOBS[job],
            )
            facts = Facts(
                "the data",
                vocabulary=vocabulary_of(30_522),
                task="classification",
                labels=("0", "1"),
                labelled=True,
            )
            yield Request(f"{size}-{job}", stage, _completed(stage, facts, arguments), None)


def _completed(stage: config_lib.TrainStage, facts: Facts, arguments: argparse.Namespace) -> Facts:
    """Returns the facts, in which values from the command line take precedence."""
    if stage.data.packing > 1:
        raise ConfigError(
            f"the number of rows with data.packing={stage.data.packing} depends on the texts; plan "
            "the padded batch with --config.stages.NAME.data.packing=1"
        )
    if arguments.task:
        labels = tuple(map(str, range(arguments.labels or _LABELS)))
        facts = dataclasses.replace(facts, task=arguments.task, labels=labels, labelled=True)
    if arguments.vocab_size:
        facts = dataclasses.replace(facts, vocabulary=vocabulary_of(arguments.vocab_size))
    if facts.vocabulary is None:
        raise ConfigError("no stage or file gives the size of the vocabulary; give --vocab-size")
    kind = stage.objective
    if facts.task is None and not isinstance(kind, config_lib.Masked):
        raise ConfigError(
            f"objective.kind={kind.kind!r} needs a task, but no stage that it reads from names "
            "one; give --task and --labels"
        )
    return facts


def _place(arguments: argparse.Namespace, run: config_lib.Run) -> Place:
    """Returns the mesh to plan for: --mesh, or the config's, on the topology or this machine."""
    if arguments.mesh:
        try:
            data, fsdp, tensor = map(int, arguments.mesh.split(","))
            run = config_lib.Run(mesh=config_lib.Mesh(data=data, fsdp=fsdp, tensor=tensor))
        except ValueError:
            raise MeshError(
                f"--mesh={arguments.mesh} is not a mesh; write --mesh=DATA,FSDP,TENSOR, such as "
                "--mesh=-1,4,1"
            ) from None
    if not arguments.topology:
        mesh = mesh_lib.mesh_for(run)
        memory = _memory(jax.local_devices()[0])
        return Place(
            f"{mesh.size} devices here", mesh, None, export.default_export_platform(), memory
        )
    chip, grid = topology.parse(arguments.topology)
    if arguments.abstract:
        count = math.prod(grid)
        axes = mesh_lib.mesh_sizes(mesh_lib.shape_for(run, chip.device_kind, count), count)
        types = (AxisType.Auto,) * len(axes)
        abstract = AbstractMesh(axes, mesh_lib.AXES, axis_types=types)
        return Place(arguments.topology, abstract, chip, chip.platform, chip.memory)
    mesh = mesh_lib.mesh_for(run, topology.devices(arguments.topology))
    return Place(arguments.topology, mesh, chip, chip.platform, chip.memory)


def _memory(device: Any) -> float | None:
    """Returns the bytes that jax may take of a device; None where the device does not tell."""
    return (device.memory_stats() or {}).get("bytes_limit")


if __name__ == "__main__":
    sys.exit(command.run(main))
