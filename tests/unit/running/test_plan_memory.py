"""tools.plan: whether a step fits is told where the memory is known, and with a reason."""

import types
from collections.abc import Iterator
from typing import Any

import pytest

from pd_jax.tools import plan
from pd_jax.training import ahead

COMPILED = ahead.Compiled(
    seconds=1.0,
    argument_bytes=600_000,
    result_bytes=0,
    temporary_bytes=400_000,
    code_bytes=0,
    peak_bytes=1_000_000,
    flops=1e6,
    accessed_bytes=1e6,
    kernels=9,
    collectives={},
)
HERE = ["--vocab-size=500", "--batch=32", "--length=16"]


def compiling(monkeypatch: pytest.MonkeyPatch, *found: ahead.Compiled | Exception) -> None:
    """Has the compiler give these, one for each step, in no time."""
    left: Iterator[Any] = iter(found)

    def compile_step(made: ahead.Ahead) -> ahead.Compiled:
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(ahead, "compile_step", compile_step)


@pytest.mark.parametrize(
    ("limit", "told", "closing", "status"),
    [
        (2_000_000, "yes: 1.0 MB of 2.0 MB", "1 fit", 0),
        (500_000, "no: 1.0 MB of 0.5 MB", "1 too large", 1),
        (None, "unknown: no memory limit is known here; give --topology (1.0 MB ", "1 may fit", 0),
    ],
)
def test_a_step_here_is_held_to_the_memory_that_its_device_tells(
    limit: int | None,
    told: str,
    closing: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compiling(monkeypatch, COMPILED)
    monkeypatch.setattr(plan, "_memory", lambda device: limit)
    assert plan.main(["--sizes=L1_H64", *HERE]) == status
    *lines, last = capsys.readouterr().out.splitlines()
    (fits,) = (line for line in lines if line.startswith("fits "))
    assert fits.split(maxsplit=1)[1].startswith(told)
    assert last == f"planned 1 steps for 8 devices here, {closing}"


def test_a_device_tells_its_memory_or_nothing() -> None:
    for told, limit in (({"bytes_limit": 7, "bytes_in_use": 1}, 7), ({}, None), (None, None)):
        device = types.SimpleNamespace(memory_stats=lambda told=told: told)
        assert plan._memory(device) == limit


def test_the_reasons_are_below_a_table_of_several_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiling(monkeypatch, COMPILED, ahead.DoesNotFit("the step does not fit; raise X"), COMPILED)
    monkeypatch.setattr(plan, "_memory", lambda device: 2_000_000)
    assert plan.main(["--sizes=L1_H64", "--jobs=mlm,distill,finetune", *HERE]) == 1
    printed = capsys.readouterr().out.splitlines()
    cells = [line.split(" | ") for line in printed if line.startswith("| L1_H64")]
    assert [(row[0], row[4]) for row in cells] == [
        ("| L1_H64-mlm", "yes"),
        ("| L1_H64-distill", "no"),
        ("| L1_H64-finetune", "yes"),
    ]
    assert printed[-3:] == [
        "",
        "* L1_H64-distill: no: the step does not fit; raise X",
        "planned 3 steps for 8 devices here, 2 fit, 1 too large",
    ]
    compiling(monkeypatch, COMPILED, COMPILED)
    monkeypatch.setattr(plan, "_memory", lambda device: 500_000)
    assert plan.main(["--sizes=L1_H64", "--jobs=mlm,distill", *HERE]) == 1
    assert "* L1_H64-mlm: no: 1.0 MB of 0.5 MB" in capsys.readouterr().out.splitlines()


def test_steps_that_are_not_compiled_are_judged_in_no_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--sizes=L1_H64", "--jobs=mlm,finetune", "--abstract", "--topology=v5e:2x2"]
    assert plan.main([*arguments, *HERE]) == 0
    printed = capsys.readouterr().out
    assert "unknown" not in printed and "\n* " not in printed
    assert printed.splitlines()[-1] == "planned 2 steps for v5e:2x2, not compiled"
