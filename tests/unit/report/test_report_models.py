"""Tables of compared and exported models: what stands in them, and damage that is named."""

import json
import subprocess
import sys

import pytest

from pd_jax.errors import ReportError
from pd_jax.report import load, models, read_report

COMPARED = {
    "name": "Teacher <T>",
    "parameters": 11_171_074,
    "layers": 4,
    "hidden": 256,
    "program": "jax",
    "device": "cpu",
    "megabytes": 44.684,
    "scores": {"accuracy": 0.912, "calibration_error": 0.0314, "f1": 0.9},
    "difference": None,
    "tokens": 128,
    "milliseconds": {"1": 5.25, "32": 140.0},
    "rows_per_second": {"1": 190.5, "32": 1228.6},
}
STUDENT = {
    **COMPARED,
    "name": "Student",
    "program": "onnx_int8",
    "megabytes": 4.4,
    "scores": {"accuracy": 0.9, "agreement": 0.955},
    "difference": 0.0123,
}
CHECK = {
    "file": "model_int8.onnx",
    "megabytes": 4.4,
    "program": "onnxruntime",
    "difference": 0.012,
    "scale": 3.0,
    "milliseconds": 1.5,
    "our_milliseconds": 3.25,
    "tokens": 64,
}


@pytest.fixture
def with_models(workdir):
    """The five methods, two models side by side, and an export."""
    for name, kind, outputs in (
        ("side", "compare", {"models": [COMPARED, STUDENT]}),
        ("onnx", "export", {"files": "model_int8.onnx", "checks": [CHECK]}),
    ):
        workdir.begin(name, {"kind": kind})
        workdir.finish(name, kind, 3.0, outputs=outputs)
    workdir.write({"PD": "pd"})
    return workdir


def test_the_tables_hold_the_figures(with_models):
    pipeline = load.load_pipeline(with_models.root, "quickstart")
    (grid,) = models.comparison_grids(pipeline)
    assert grid.header == (
        "model", "run by", "parameters", "MB", "accuracy %", "agreement %", "calibration error %",
        "ms by 1", "ms by 32", "texts/s by 32", "difference",
    )  # fmt: skip
    teacher, student = ([cell.text for cell in line] for line in grid.lines)
    assert teacher == ["Teacher <T>, L4_H256", "JAX, cpu", "11.2M", "44.7", "91.2", "–", "3.1",
                       "5.25", "140", "1,229", "–"]  # fmt: skip
    assert student[:2] == ["Student, L4_H256", "ONNX int8, cpu"]
    assert student[5:7] == ["95.5", "–"] and student[-1] == "1.2e-02"
    assert "texts of 128 tokens" in grid.caption and "with Teacher <T>" in grid.caption
    assert grid.text().splitlines()[2].startswith("Teacher <T>, L4_H256  JAX, cpu")
    exports = models.export_grid(pipeline)
    assert "the median for one text of 64 tokens, on the CPU" in exports.caption
    assert [cell.text for cell in exports.lines[0]] == [
        "onnx", "model_int8.onnx", "onnxruntime", "4.4", "1.2e-02", "1.5", "3.25"
    ]  # fmt: skip


def test_the_page_shows_them(with_models):
    page = read_report(with_models.root, "quickstart").write_page().read_text()
    assert "<h2>Models side by side</h2>" in page and "<h2>Exports</h2>" in page
    assert "Teacher &lt;T&gt;, L4_H256" in page and "Teacher <T>" not in page
    assert "onnxruntime" in page


def test_a_page_without_models_has_no_empty_sections(workdir):
    page = read_report(workdir.root, "quickstart").write_page().read_text()
    assert "Models side by side" not in page and "Exports" not in page


def test_a_program_that_was_not_there_is_said(with_models):
    bare = {"file": "model.onnx", "megabytes": 1.0, "program": "onnxruntime"}
    with_models.finish("onnx", "export", 3.0, outputs={"checks": [bare]})
    pipeline = load.load_pipeline(with_models.root, "quickstart")
    texts = [cell.text for cell in models.export_grid(pipeline).lines[0]]
    assert texts[2] == "onnxruntime, not installed" and texts[-1] == "–"


def test_damaged_figures_are_named(with_models):
    path = with_models.folder("side") / "done.json"
    done = json.loads(path.read_text())
    done["outputs"]["models"][0]["megabytes"] = "many"
    path.write_text(json.dumps(done))
    with pytest.raises(ReportError, match=r"side-.*/done\.json: outputs\.models of stage 'side'"):
        read_report(with_models.root, "quickstart").write_page()


def test_a_report_loads_no_jax():
    heavy = "{'jax', 'flax', 'grain', 'torch'} & set(sys.modules)"
    command = [sys.executable, "-c", f"import sys, pd_jax.tools.report; print({heavy})"]
    assert subprocess.check_output(command, text=True) == "set()\n"
