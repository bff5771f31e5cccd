"""Every config flattened, beside a file that says what it was: a review shows what a change did.

What a config leaves out is in `defaults.txt`, which holds the default of every key.

Rewrite the files with `UPDATE_GOLDEN=1 bash tests/run.sh tests/golden`.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib

import pytest

from configs import common
from pd_jax import config as config_lib
from pd_jax.config import reading
from pd_jax.models import sizes
from pd_jax.planning import order

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
SHARED = {"common.py", "arguments.py", "pieces.py", "sources.py", "claims.py", "__init__.py"}
CONFIGS = sorted(
    path.relative_to(ROOT / "configs")
    for path in (ROOT / "configs").rglob("*.py")
    if path.name not in SHARED
)


def load(path: pathlib.Path, arg: str = ""):
    spec = importlib.util.spec_from_file_location(path.stem, ROOT / "configs" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg), module


def flattened(value, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [line for key in value for line in flattened(value[key], f"{path}.{key}")]
    return [f"{path[1:]} = {json.dumps(value)}"]


def summed_up(config: dict) -> list[str]:
    """Returns a study's values: of all stages of a kind together, then its cells and claims."""
    found: dict[str, dict[str, int]] = {}
    for stage in config["stages"].values():
        for line in flattened(stage, f".{stage['kind']}"):
            key, _, value = line.partition(" = ")
            counts = found.setdefault(key, {})
            counts[value] = counts.get(value, 0) + 1
    lines = []
    for key, counts in found.items():
        shown = [f"{value} ({count})" for value, count in sorted(counts.items())]
        rest = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
        lines.append(f"{key}: {', '.join(shown[:6])}{rest}")
    study = config["study"]
    axes: dict[str, set] = {}
    for cell in study["cells"]:
        for name, value in cell["axes"].items():
            axes.setdefault(name, set()).add(str(value))
    lines += [f"axis {name}: {', '.join(sorted(values))}" for name, values in axes.items()]
    lines += [f"claim: {claim['text']}" for claim in study["claims"]]
    rest = {key: config[key] for key in config if key not in ("stages", "study")}
    return [*lines, f"cells: {len(study['cells'])}", *flattened(rest)]


def assert_golden(name: str, lines: list[str]) -> None:
    text = "\n".join(sorted(lines)) + "\n"
    golden = HERE / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert golden.exists(), f"no {golden.name}; make it with UPDATE_GOLDEN=1"
    assert text == golden.read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_is_what_its_golden_file_says(path, monkeypatch):
    monkeypatch.setenv("PD_JAX_DATA", "DATA")
    config, _ = load(path)
    values = config.to_dict()
    lines = summed_up(values) if "study" in values else flattened(values)
    assert_golden("_".join(path.with_suffix("").parts), lines)


def test_every_default_is_what_the_golden_file_says():
    lines = []
    for kind in vars(config_lib).values():
        if dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                made = field.default_factory is not dataclasses.MISSING
                value = field.default_factory() if made else field.default
                if value is not dataclasses.MISSING and not dataclasses.is_dataclass(value):
                    lines.append(f"{kind.__name__}.{field.name} = {json.dumps(value)}")
    assert_golden("defaults", lines)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_has_a_command_a_smoke_form_and_stages_that_connect(path):
    for arg in ("", "smoke"):
        config, module = load(path, arg)
        pipeline = reading.pipeline_from(config)
        assert set(order(pipeline.stages)) == set(pipeline.stages)
        assert {stage for _, stage in pipeline.report.rows} <= set(pipeline.stages)
        with pytest.raises((KeyError, AttributeError)):
            config.no_such_key = 1
    assert f"--config=configs/{path}" in module.__doc__
    with pytest.raises(ValueError, match="'smokee' is unknown; this config takes"):
        load(path, "smokee")


def test_a_teacher_grows_from_a_model_of_its_width_only():
    study = pathlib.Path("study/sizes.py")
    with pytest.raises(ValueError, match="grow=L2_H128 cannot become L4_H256: .*pass grow="):
        load(study, "teacher=L4_H256")
    alone, _ = load(study, "teacher=L4_H256,grow=")
    grown, _ = load(study, "teacher=L6_H128")
    assert "init" not in alone.stages.pretrain_teacher_L4_H256
    assert tuple(grown.stages.pretrain_teacher_L6_H128.init.layers) == (0, 1, 0, 1, 0, 1)


def test_a_study_without_its_own_reference_is_refused():
    with pytest.raises(
        ValueError, match="temperatures= and shares= lack 1 and 0, the paper's loss"
    ):
        load(pathlib.Path("study/temperature.py"), "temperatures=2+4")
    with pytest.raises(ValueError, match="deep=2: no deeper than L2_H128"):
        load(pathlib.Path("study/initialisation.py"), "deep=2")


def test_a_smoke_run_takes_what_is_named():
    study, _ = load(pathlib.Path("study/transfer_rows.py"), "smoke,rows=10+20")
    assert {cell["axes"].get("rows") for cell in study.study.cells} == {None, 10, 20}


def test_sizes_may_be_named():
    named, _ = load(pathlib.Path("study/sizes.py"), "teacher=Mini,grow=L2_H256,sizes=Tiny")
    spelt, _ = load(pathlib.Path("study/sizes.py"), "teacher=L4_H256,grow=L2_H256,sizes=L2_H128")
    assert named == spelt
    assert common.RELEASED == sizes.NAMES


def test_a_truncated_student_does_not_descend_from_the_pretrained_one():
    config, _ = load(pathlib.Path("study/initialisation.py"), "task=sst2")
    ancestors, name = [], "sst2_pd_L2_H128_truncated_0"
    while (source := config.stages[name].get("init", {}).get("source", "@")) != "@":
        name = source.removeprefix("@")
        ancestors.append(name)
    assert ancestors == ["pretrain_teacher_L4_H128_seed1", "pretrain_L2_H128_seed1"]
    assert config.stages[ancestors[-1]].seed == 1


def test_one_number_of_transfer_rows_makes_one_claim():
    path = pathlib.Path("study/transfer_rows.py")
    one, twice, several = (
        [claim["text"] for claim in load(path, f"rows={rows}")[0].study.claims]
        for rows in ("1000", "1000+1000", "1000+6000")
    )
    assert one == twice == ["PD > distillation at 1,000 rows"]
    assert len(several) == 4 and one[0] in several


def test_transfer_sets_are_ordered_by_their_nearness():
    near_first, _ = load(pathlib.Path("study/domain.py"), "sets=imdb+news")
    far_first, _ = load(pathlib.Path("study/domain.py"), "sets=news+imdb")
    assert near_first == far_first


@pytest.mark.parametrize(
    ("path", "arg", "message"),
    [
        ("study/domain.py", "sets=imdb", "two sets or more"),
        ("study/domain.py", "sets=imdb+films", "sets=films.*news, electronics, imdb"),
        ("study/sizes.py", "task=qnli", "task=qnli.*sst2, mnli"),
        ("study/sizes.py", "dtype=float16", "dtype=float16.*float32, bfloat16"),
        ("study/sizes.py", "teacher=Huge", "Huge.*is none: write L4_H256"),
        ("distill/lm.py", "budget=tpu", "budget=tpu.*cpu, gpu"),
    ],
)
def test_an_argument_out_of_range_is_told_with_what_is_known(path, arg, message):
    with pytest.raises(ValueError, match=message):
        load(pathlib.Path(path), arg)


def test_a_study_in_bfloat16_trains_and_labels_in_it():
    config, _ = load(pathlib.Path("study/sizes.py"), "dtype=bfloat16")
    for name, stage in config.stages.items():
        if stage.kind == "train":
            assert stage.compute.dtype == "bfloat16", name
        if stage.kind == "label":
            assert stage.dtype == "bfloat16", name
