import base64
import hashlib
import html.parser
import json
import pathlib
import re
import shutil
import urllib.parse
from typing import Any

import pytest

from pd_jax.report import read_report
from pd_jax.report.page import lead
from pd_jax.report.table import make_table

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)> & '</title></style>"


class Page(html.parser.HTMLParser):
    """A page's elements as (tag, attributes), its text, and its ids."""

    def __init__(self, text: str):
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def links(self, inside: bool) -> list[str]:
        found = [a["href"] for a in self.all("a")]
        return [href for href in found if href.startswith("#") == inside]


def report(workdir: Any, output: pathlib.Path | None = None) -> Page:
    return Page(read_report(workdir.root, workdir.name).write_page(output).read_text())


def test_the_page_needs_nothing_but_itself(workdir: Any) -> None:
    page = report(workdir)
    assert re.findall(r"https?:|url\(|@import|\bsrc=|srcset=", page.source) == []
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "base"} == set()
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy


def test_the_policy_allows_the_one_script_by_its_digest(workdir: Any) -> None:
    page = report(workdir)
    scripts = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.source


def test_a_page_elsewhere_names_none_of_this_machines_folders(
    workdir: Any, tmp_path: pathlib.Path
) -> None:
    path = workdir.folder("pretrain") / "config.json"
    config = json.loads(path.read_text())
    config["data"]["records"] = "/home/me/secret/corpus"
    path.write_text(json.dumps(config))
    workdir.write({"PD": "pd"})
    pipeline = workdir.root / "pipelines" / f"{workdir.name}.json"
    content = json.loads(pipeline.read_text())
    content["command"] = "python -m pd_jax.main --config=/home/me/mine.py --workdir=runs/a/b"
    pipeline.write_text(json.dumps(content))
    assert "/home/me/secret/corpus" in report(workdir).text
    text = report(workdir, tmp_path / "elsewhere.html").text
    assert "/home" not in text and '"…/corpus"' in text
    assert "--config=…/mine.py --workdir=runs/a/b" in text


def test_the_caption_says_why_there_are_no_whiskers(workdir: Any) -> None:
    workdir.write({"PD": "pd", "PF": "pf"}, metrics=("dev/loss",))
    assert "Without intervals, which are for shares of examples only." in report(workdir).text


def test_the_answer_stands_first(workdir: Any) -> None:
    text = report(workdir).text
    answer = "PD-F is best of the 5 methods: 90.5 % test accuracy, with 4.39M parameters (17.5 MB)."
    assert answer in text
    assert "PD follows, 0.6 points behind: their 95 % intervals overlap" in text
    assert "Last comes basic with 77.3 %. The teacher reaches 93.4 %." in text
    order = [text.index(part) for part in (answer, "Test accuracy by method", "while training")]
    assert order == sorted(order)


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(workdir: Any) -> None:
    page = report(workdir)
    assert len(page.ids) == len(set(page.ids))
    assert {href[1:] for href in page.links(inside=True)} <= set(page.ids)
    for svg in page.all("svg"):
        assert set(svg["aria-labelledby"].split()) <= set(page.ids)
    targets = {label["for"] for label in page.all("label")}
    assert targets <= set(page.ids)


def test_every_row_leads_to_its_folder_config_and_curve(workdir: Any) -> None:
    page = report(workdir)
    for number, name in enumerate(workdir.stages, start=1):
        if name not in ("basic", "distillation", "pf", "pd", "pd_f", "teacher"):
            continue
        folder = workdir.stages[name]
        table = page.source.split("<tbody>")[1].split("</tbody>")[0]
        assert f'href="#stage-{number}">curve' in table
        assert f'href="{folder}/">folder' in table
        assert f'href="{folder}/config.json">config' in table


def test_links_to_folders_hold_after_the_workdir_was_moved(
    workdir: Any, tmp_path: pathlib.Path
) -> None:
    path = read_report(workdir.root, workdir.name).write_page()
    moved = tmp_path / "moved"
    shutil.move(workdir.root, moved)
    page = Page((moved / path.name).read_text())
    links = page.links(inside=False)
    assert len(links) > 20
    for href in links:
        assert (moved / urllib.parse.unquote(href)).exists(), href
    assert str(tmp_path) not in page.source


def test_a_page_deep_in_the_workdir_finds_the_folders(workdir: Any) -> None:
    output = pathlib.Path(workdir.root) / "pages" / "today" / "page.html"
    page = report(workdir, output)
    links = page.links(inside=False)
    assert links
    for href in links:
        assert (output.parent / urllib.parse.unquote(href)).exists(), href


def test_a_page_outside_stands_alone(workdir: Any, tmp_path: pathlib.Path) -> None:
    page = report(workdir, tmp_path / "pages" / "page.html")
    assert page.links(inside=False) == []
    assert "Links lead" not in page.source
    assert len(page.links(inside=True)) > 20


def test_equal_files_give_equal_pages(workdir: Any) -> None:
    assert report(workdir).source == report(workdir).source


def test_hostile_names_stay_text(empty: Any) -> None:
    name = f"stage {HOSTILE}"
    empty.train(
        "a", objective="classify", needs=(HOSTILE,), final=0.8, loss=(1, 0.5), steps=9, seconds=1
    )
    empty.stages[name] = empty.stages.pop("a")
    empty.status[name] = "done"
    folder = empty.folder(name)
    (folder / "versions.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (folder / "config.json").write_text(json.dumps({"kind": HOSTILE, "model": {"size": HOSTILE}}))
    (folder / "spans.jsonl").write_text(json.dumps({"name": HOSTILE, "seconds": 1}) + "\n")
    empty.write({HOSTILE: name}, title=HOSTILE, metrics=("dev/accuracy", HOSTILE))
    page = report(empty)
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "<img src=x" not in page.source
    assert page.source.count("</title></style>") == 0


def test_a_failed_stage_is_shown_with_its_reason(workdir: Any) -> None:
    (workdir.folder("pd") / "done.json").unlink()
    path = workdir.folder("pd") / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 905, "train/loss": NaN}\n{"step": 90')
    workdir.status["pd"] = "failed"
    workdir.write({"PF": "pf", "PD": "pd"})
    page = report(workdir)
    assert "PD (failed): train/loss was not finite at step 905." in page.text
    assert "PF is the only method that has a result: 85.1 % test accuracy" in page.text
    assert "Not finite at some steps, left out here: PD." in page.text
    # In both widths of both charts, twice in the table's row and once as its chip.
    assert page.source.count(">failed<") >= 6


def test_a_metric_that_is_missing_is_said(workdir: Any) -> None:
    workdir.write({"PD": "pd"}, metrics=("dev/accuracy", "test/matthews"))
    page = report(workdir)
    assert "PD: It has no finite test/matthews." in page.text
    assert '<span class="missing">missing</span>' in page.source


def test_nothing_has_a_result_yet(empty: Any) -> None:
    empty.begin("a", {"kind": "train"}, "failed")
    empty.stages["b"] = "stages/b-0"
    empty.status["b"] = "waiting"
    empty.write({"A": "a", "B": "b"})
    page = report(empty)
    assert "No method has a result yet." in page.text
    assert "B (not run)" in page.text
    assert [href for href in page.links(inside=False) if "/b-0" in href] == []


def test_a_pipeline_without_training_has_a_page(empty: Any) -> None:
    empty.plain("text", "synthetic", 1.0)
    empty.write({}, metrics=())
    assert "This pipeline has no training stage to compare." in report(empty).text


def test_versions_that_differ_name_their_stages(workdir: Any) -> None:
    path = workdir.folder("pd") / "versions.json"
    path.write_text(json.dumps({"jax": "0.11.0"}))
    text = report(workdir).text
    assert "0.11.0 (pd)" in text
    assert re.search(r"python 3\.11\.9 (?!\()", text)


def test_size_is_shown_only_where_sizes_differ(workdir: Any) -> None:
    assert "Score and size" in report(workdir).text
    workdir.write({"PF": "pf", "PD": "pd"})
    assert "Score and size" not in report(workdir).text


def test_the_papers_values_are_shown_where_asked_for(workdir: Any) -> None:
    assert "the paper: " not in report(workdir).text
    workdir.write({"PF": "pf", "PD": "pd", "PD-F": "pd_f"}, reference="SST-2")
    page = report(workdir)
    assert "the paper: 85.6" in page.text
    assert "the paper: 83.1" in page.text
    # Two methods in two widths; the paper has no PD-F by size.
    assert page.source.count('class="paper"') == 4


def test_seconds_of_the_chain_add_up(workdir: Any) -> None:
    cells = re.findall(r"<th scope=\"row\">all</th>.*?</tr>", report(workdir).source, re.DOTALL)
    total = 1.4 + 2.2 + 3.1 + 0.6 + 1.9 + 131 + 44 + 6.5 + 9 + 26 + 9.5 + 27 + 9.2
    assert f"{int(total // 60)} min {round(total % 60):02d} s" in cells[0]


def test_a_single_value_is_no_curve(empty: Any) -> None:
    empty.train(
        "a", objective="distill", needs=("x",), final=0.7, loss=(1, 0.5), steps=1, seconds=1
    )
    empty.write({"A": "a"})
    page = report(empty)
    assert "while training" not in page.text
    assert "Training loss" not in page.text
    assert '">details</a>' in page.source


def test_the_lead_says_when_methods_are_equal(empty: Any) -> None:
    for name, final in (("a", 0.8), ("b", 0.8), ("c", 0.7)):
        empty.train(
            name, objective="distill", needs=("x",), final=final, loss=(1, 0.5), steps=9, seconds=1
        )
    empty.write({"A": "a", "B": "b", "C": "c"}, metrics=("dev/accuracy",))
    text = report(empty).text
    assert (
        "A and B are equally the best of the 3 methods: 80.0 % dev accuracy. Last comes C" in text
    )
    empty.write({"A": "a", "B": "b"}, metrics=("dev/accuracy",))
    assert "No method stands out: all have 80.0 % dev accuracy." in report(empty).text


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (0.900, 0.895, "0.5 points behind: their 95 % intervals overlap"),
        (0.900, 0.800, "10.0 points behind: their 95 % intervals over the examples lie apart"),
        (0.900, 0.8998, "less than 0.1 points behind"),
    ],
)
def test_the_lead_says_how_sure_an_order_is(
    empty: Any, first: float, second: float, sentence: str
) -> None:
    from pd_jax.report import load

    for name, final in (("a", first), ("b", second)):
        empty.train(
            name, objective="distill", needs=("x",), final=final, loss=(1, 0.5), steps=9, seconds=1
        )
    empty.write({"A": "a", "B": "b"}, metrics=("dev/accuracy",))
    assert sentence in " ".join(lead(make_table(load.load_pipeline(empty.root, empty.name))))
