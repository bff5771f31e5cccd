"""A study's report: groups, claims judged by hand-made numbers, the page, and what is missing."""

import itertools
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from etils import epath

from pd_jax.errors import ReportError
from pd_jax.evaluation import predictions
from pd_jax.evaluation.predictions import Predictions
from pd_jax.report import claims, lines, load, read_report, study, study_text, svg
from pd_jax.report.statistics import Interval, Verdict, interval_over_examples
from pd_jax.tools import report as report_tool
from pd_jax.workdir import PREDICTIONS
from tests.unit.report import studies
from tests.unit.report.conftest import Workdir
from tests.unit.report.test_report_page import Page

ACCURACY = "dev+test/accuracy"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """Two sizes, five methods, three seeds; one of the stages has diverged."""
    made = Workdir(tmp_path_factory.mktemp("study") / "work")
    asked = studies.fill(made)
    studies.diverge(made, "pd-L4_H256-2")
    studies.write(made, asked)
    return made


def results_of(workdir: Workdir) -> study.Results:
    return study.load_results(workdir.root, load.load_pipeline(workdir.root, workdir.name))


def test_a_measure_is_taken_over_the_rows_of_all_its_sets(finished):
    found = results_of(finished)
    group = found.at({"method": "PF", "size": "L2_H128"})
    assert group is not None
    done = json.loads((finished.folder("pf-L2_H128-1") / "done.json").read_text())["metrics"]
    by_hand = (400 * done["dev/accuracy"] + 900 * done["test/accuracy"]) / 1300
    assert group.results[1].values[ACCURACY] == pytest.approx(by_hand, abs=1e-12)
    values = [result.values[ACCURACY] for result in group.results]
    assert group.summaries[ACCURACY].mean == pytest.approx(np.mean(values))
    assert group.summaries[ACCURACY].deviation == pytest.approx(np.std(values, ddof=1))
    scores = study.scores_by_example(found, group.results[1], found.study.measures[0])
    assert scores.shape == (1300,)
    assert scores.mean() == pytest.approx(by_hand)


def test_a_seed_that_diverged_is_named_and_enters_no_average(finished):
    found = results_of(finished)
    group = found.at({"method": "PD", "size": "L4_H256"})
    assert group is not None
    summary = group.summaries[ACCURACY]
    assert summary.left_out == ("2",)
    assert summary.mean == np.mean([group.results[n].values[ACCURACY] for n in (0, 1)])
    assert [one.stage.name for one in found.missing] == ["pd-L4_H256-2"]
    text = study_text.as_text(found)
    assert "2 of 3" in text
    assert "PD, L4_H256, seed 2 (failed): train/loss was not finite at step 301." in text


def test_a_cell_may_be_of_the_teacher_that_its_stage_is_scored_against(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=1)
    truth = np.array([0, 1, 1, 0])
    teacher = np.eye(2, dtype=np.float32)[[0, 1, 0, 0]]
    student = np.eye(2, dtype=np.float32)[[1, 1, 0, 0]]
    folder = epath.Path(made.folder("pd-L2_H128-0"))
    predictions.write(folder, {"test": Predictions(student, truth, teacher)})
    asked["measures"] = [
        {"quantity": "accuracy", "sets": ["test"]},
        {"quantity": "agreement", "sets": ["unseen"]},
    ]
    teachers = {"method": "mean of teachers", "seed": 0}
    asked["cells"].append({"stage": "pd-L2_H128-0", "axes": teachers, "of": "teacher"})
    # This one's stage is scored against a teacher on rows without labels alone.
    unknown = {"method": "unlabelled", "seed": 0}
    asked["cells"].append({"stage": "pf-L2_H128-0", "axes": unknown, "of": "teacher"})
    studies.write(made, asked)
    found = results_of(made)
    group = found.at({"method": "mean of teachers"})
    assert group is not None and group.parameters is None
    (result,) = group.results
    assert result.values == {"test/accuracy": 0.75, "unseen/agreement": None}
    assert (result.lacking, result.note) == ((), "")
    scores = study.scores_by_example(found, result, found.study.measures[0])
    assert scores.tolist() == [1, 1, 0, 1]
    assert [one.axes["method"] for one in found.missing] == ["unlabelled"]
    assert "It has no finite test/accuracy." in study_text.as_text(found)


def test_claims_are_judged_over_seeds_and_over_examples(finished):
    found = results_of(finished)
    pd, basic, _ = claims.judge(found)
    assert (pd.verdict, basic.verdict) == (Verdict.HOLDS, Verdict.FAILS)
    judged = pd.judgements[0]
    by_seed = {}
    for seed in range(2):  # seed 2 has no PD of L4_H256
        pairs = [
            [
                found.at({"method": m, "size": size}).results[seed].values[ACCURACY]
                for m in ("PD", "PF")
            ]
            for size in studies.SIZES
        ]
        by_seed[str(seed)] = np.mean([first - second for first, second in pairs])
    assert judged.seeds.used == pytest.approx(by_seed)
    assert judged.seeds.left_out == ("2",)
    assert judged.examples is not None
    assert judged.examples.estimate == pytest.approx(judged.seeds.mean)
    assert judged.examples.count == 1300
    assert (judged.ahead, judged.signs) == (5, 5)
    assert judged.chance == 2 / 2**2  # by seed: places of one seed share their models
    kl = pd.judgements[2]  # less is better, so that PD's smaller KL speaks for it
    assert kl.measure == "unseen/kl"
    assert kl.seeds.mean > 0


def test_rows_with_several_labels_are_right_where_all_of_them_are(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=2)
    asked["measures"] = [
        {"quantity": "accuracy", "sets": ["dev", "test"]},
        {"quantity": "agreement", "sets": ["unseen"]},
    ]
    for cell in asked["cells"]:
        right = studies.METHODS.get(cell["axes"]["method"], 0.9)
        studies.rescore(made, cell["stage"], studies.several_labels(right), task="multilabel")
    teachers = {"method": "mean of teachers", "seed": 0}
    asked["cells"].append({"stage": "pd-L2_H128-0", "axes": teachers, "of": "teacher"})
    studies.write(made, asked)
    found = results_of(made)
    pd = claims.judge(found)[0]
    accuracy, agreement = pd.judgements
    for judged, rows in ((accuracy, 1300), (agreement, 1000)):
        assert judged.verdict == Verdict.HOLDS
        assert judged.examples is not None
        assert judged.examples.estimate == pytest.approx(judged.seeds.mean)
        assert judged.examples.count == rows
    group = found.at({"method": "mean of teachers"})
    assert group is not None
    assert group.results[0].values == {ACCURACY: 1.0, "unseen/agreement": None}


def test_a_claim_by_a_score_that_is_no_mean_is_decided_over_resamples(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made)
    asked["measures"] = [
        {"quantity": quantity, "sets": ["test"]} for quantity in ("f1", "matthews", "accuracy")
    ]
    studies.write(made, asked)
    pd, basic, _ = claims.judge(results_of(made))
    assert (pd.verdict, basic.verdict) == (Verdict.HOLDS, Verdict.FAILS)
    for judged in pd.judgements:
        assert judged.examples is not None
        assert judged.examples.estimate == pytest.approx(judged.seeds.mean)
        assert judged.examples.count == 900
    f1, matthews, accuracy = (judged.examples for judged in pd.judgements)
    # Paired rows: as sure as accuracy, of which matthews is about twice.
    assert f1.high - f1.low == pytest.approx(accuracy.high - accuracy.low, rel=0.3)
    assert matthews.high - matthews.low == pytest.approx(
        2 * (accuracy.high - accuracy.low), rel=0.3
    )


def test_one_seed_decides_nothing(tmp_path):
    made = Workdir(tmp_path / "work")
    studies.write(made, studies.fill(made, seeds=1))
    judged = claims.judge(results_of(made))
    assert {one.verdict for one in judged} == {Verdict.UNDECIDED}


def test_an_interval_of_many_different_values_is_the_normal_one():
    values = np.random.default_rng(0).normal(0.1, 1.0, 5000)
    found = interval_over_examples(values, seed=0)
    half = 1.959964 * values.std(ddof=1) / np.sqrt(5000)
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.estimate == pytest.approx(half, rel=1e-6)


def test_the_page_leads_from_every_point_to_its_stage(finished):
    page = Page(read_report(finished.root, finished.name).write_page().read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {href[1:] for href in page.links(inside=True)} <= set(page.ids)
    for href in page.links(inside=False):
        assert (finished.root / href).exists(), href
    assert "2 of 3 claims hold: PD > PF; PD-F > PD. 1 of 3 claims fails: basic > PF." in page.text
    assert "without seed 2" in page.text
    assert "the paper's SST-2 accuracy" in page.text
    assert 'href="#stage-' in page.source.split("<figure")[1]
    cells = page.source.split('id="cells"')[1].split("</section>")[0]
    assert len(re.findall(r"<tr[ >]", cells)) == 1 + 31
    assert cells.count(">missing<") == 3


def test_sizes_are_joined_by_lines_and_names_without_an_order_are_not(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=2)
    figures = [{"title": "A", "x": "size"}, {"title": "B", "x": "method", "series": "size"}]
    studies.write(made, {**asked, "figures": figures})
    page = read_report(made.root, made.name).write_page().read_text()
    by_size, by_method = page.split('id="figures"')[1].split("</section>")[0].split("<h3")[1:]
    assert by_size.count("<polyline") == len(studies.METHODS) * len(studies.MEASURES)
    assert by_method.count("<polyline") == 0
    assert by_method.count("<circle") >= len(studies.METHODS) * len(studies.SIZES)


def test_methods_that_are_not_the_papers_have_colours_of_their_own(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=1)
    others = {"basic": "mine A", "PF": "mine B"}
    for cell in asked["cells"]:
        method = cell["axes"]["method"]
        cell["axes"]["method"] = others.get(method, method)
        if method == "PD":
            cell.update(of="teacher")
    studies.write(made, {**asked, "claims": [], "figures": [{"title": "A", "x": "size"}]})
    page = read_report(made.root, made.name).write_page().read_text()
    legend = page.split('class="legend always"')[1].split("</ul>")[0]
    found = dict(re.findall(r'swatch (c-?\w+(?: dashed)?)"></span>([^<]+)', legend))
    assert len(found) == len(studies.METHODS)  # with the teacher, and one of the two greys
    assert [found["c5"], found["c6"]] == ["mine A", "mine B"]
    assert found["c-grey"] in ("teacher", "PD")


def test_a_study_of_seeds_alone_has_rows_that_lead_to_their_stages(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=3)
    for axes in ({}, {"method": "PD"}):
        cells = [{"stage": f"pd-L2_H128-{n}", "axes": {**axes, "seed": n}} for n in range(3)]
        asked |= {"cells": cells, "claims": [], "figures": []}
        studies.write(made, asked)
        page = read_report(made.root, made.name).write_page().read_text()
        cells = page.split('id="cells"')[1].split("</section>")[0]
        assert cells.count('<th scope="row"') == 3
        assert cells.count("folder</a>") == 3


def test_the_page_says_why_a_finished_run_has_no_value(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=2)
    path = made.folder("pd-L2_H128-0") / "done.json"
    done = json.loads(path.read_text())
    del done["metrics"]["test/accuracy"]
    path.write_text(json.dumps(done))
    studies.write(made, asked)
    page = Page(read_report(made.root, made.name).write_page().read_text())
    assert "pd-L2_H128-0: It has no finite dev+test/accuracy." in page.text


@pytest.mark.parametrize("scale", ["category", "linear", "log"])
def test_an_axis_may_mix_numbers_and_names_or_begin_at_0(tmp_path, scale):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=1)
    for cell, rows in zip(asked["cells"], (500, "all", 20, 100) * 3, strict=False):
        cell["axes"]["rows"] = rows
    for cell, number in zip(asked["cells"], (10, 0, 100) * 4, strict=False):
        cell["axes"]["dropout"] = number
    figures = [{"title": name, "x": name, "scale": scale} for name in ("rows", "dropout")]
    studies.write(made, {**asked, "claims": [], "figures": figures})
    page = read_report(made.root, made.name).write_page().read_text()
    assert page.split('id="figures"')[1].split("</section>")[0].count("<figure") >= 2


def test_a_line_that_lacks_its_first_place_does_not_reorder_the_axis():
    spots = {x: lines.Spot(x, 1.0, None, None, str(x)) for x in ("a", 6, 2)}
    drawn = [lines.Line("PF", 0, [spots[2]]), lines.Line("PD", 1, list(spots.values()))]
    chart = lines.lines_chart(
        svg.Frame("key", "T", "D", 400, 200),
        drawn,
        scale="category",
        order=("a", 6, "lost", 2),
        x_label="x",
        y_label="y",
    )
    places = [float(found) for found in re.findall(r'cx="([\d.]+)"', chart)]
    assert np.argsort(places[1:]).tolist() == [0, 1, 2]
    assert places[0] == pytest.approx(places[3], abs=20)


def test_cells_that_name_their_axes_in_another_order_are_one_group(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=2)
    studies.write(made, asked)
    before = [len(group.results) for group in results_of(made).groups]
    for cell in asked["cells"][::2]:
        cell["axes"] = dict(reversed(cell["axes"].items()))
    studies.write(made, asked)
    assert [len(group.results) for group in results_of(made).groups] == before


def test_an_interval_of_a_level_ends_where_its_measure_does():
    wide = Interval(0.9, 0.5, 1.3, 2)
    for measure, ends in (
        ("dev/accuracy", (0.5, 1.0)),
        ("dev/kl", (0.5, 1.3)),
        ("dev/pearson", (0.5, 1.0)),
    ):
        shown = study_text.level_interval(measure, wide)
        assert (shown.low, shown.high) == ends
    below = Interval(0.1, -1.3, 1.5, 2)
    assert study_text.level_interval("dev/kl", below).low == 0.0
    assert study_text.level_interval("dev/matthews", below).low == -1.0


def test_a_claim_with_a_margin_shows_it_in_the_measures_unit(tmp_path):
    made = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=2)
    asked["claims"] = [{**asked["claims"][0], "near": 0.25}]
    studies.write(made, asked)
    found = results_of(made)
    assert f"{asked['claims'][0]['text']} (within 25.00 points)" in study_text.as_text(found)
    assert "(within 25.00 points)" in read_report(made.root, made.name).write_page().read_text()
    assert list(study_text.as_json(found)["claims"][0]["by"]) == [ACCURACY]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_follow_the_numbers_of_their_axis(scale):
    spots = [lines.Spot(x, 1.0, None, None, str(x)) for x in (3, "all", 0, 20, "none")]
    chart = lines.lines_chart(
        svg.Frame("key", "T", "D", 400, 200),
        [lines.Line("PD", 0, spots)],
        scale=scale,
        x_label="x",
        y_label="y",
    )
    places = [float(found) for found in re.findall(r'cx="([\d.]+)"', chart)]
    assert np.argsort(places).tolist() == [2, 0, 3, 1, 4]


def test_the_numbers_are_written_with_where_they_come_from(finished, tmp_path, capsys):
    words = ["--workdir", str(finished.root), "--json", str(tmp_path / "study.json")]
    page = ["--output", str(tmp_path / "page.html"), "--format", "markdown"]
    assert report_tool.main([*words, *page]) == 0
    assert "| PD | L4_H256 | 2 of 3 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["environment"]["commit"] == "0123abc"
    assert found["seconds"] > 1000
    assert found["claims"][0]["verdict"] == "holds"
    assert found["claims"][0]["by"][ACCURACY]["over_seeds"]["left_out"] == ["2"]
    assert found["missing"][0]["axes"] == {"method": "PD", "size": "L4_H256", "seed": 2}
    (pd,) = (
        g for g in found["groups"] if g["axes"].get("method") == "PD" and "L4" in g["axes"]["size"]
    )
    assert pd["axes"]["layers"] == 4
    assert pd["cells"][2][ACCURACY] is None


def test_a_damaged_prediction_or_study_is_named(tmp_path):
    made: Any = Workdir(tmp_path / "work")
    asked = studies.fill(made, seeds=1)
    path = studies.write(made, asked)
    held = pathlib.Path(made.folder("pd-L2_H128-0") / "predictions" / "dev.npz")
    whole = held.read_bytes()
    held.write_bytes(whole[:-20])
    with pytest.raises(ReportError, match="dev.npz cannot be read as predictions"):
        read_report(made.root, made.name).as_text()
    held.write_bytes(whole)
    content = json.loads(path.read_text())
    content["config"]["study"]["cells"][0]["stage"] = "nowhere"
    path.write_text(json.dumps(content))
    with pytest.raises(ReportError, match="its study names 'nowhere'"):
        load.load_pipeline(made.root, made.name)


def test_a_bit_that_turned_in_predictions_is_found(tmp_path):
    folder = epath.Path(tmp_path)
    truth = np.random.default_rng(0).integers(0, 2, 20)
    kept = Predictions(np.eye(2, dtype=np.float32)[truth], truth, None)
    predictions.write(folder, {"dev": kept})
    held = folder / PREDICTIONS / "dev.npz"
    whole = held.read_bytes()
    held.write_bytes(b"")
    with pytest.raises(ReportError, match="cannot be read as predictions"):
        predictions.read(folder, "dev")
    refused = set()
    for place, bit in itertools.product(range(len(whole)), (0, 6)):
        turned = bytearray(whole)
        turned[place] ^= 1 << bit
        held.write_bytes(bytes(turned))
        try:
            found = predictions.read(folder, "dev")
        except ReportError as fault:
            refused.add(str(fault).partition("(")[2][:24])
        else:
            assert found is not None and (found.logits == kept.logits).all()
    for start in (
        "Error -3",
        "zip file version",
        "That compression method",
        "File 'label.npy' is",
    ):
        assert any(reason.startswith(start) for reason in refused), start
