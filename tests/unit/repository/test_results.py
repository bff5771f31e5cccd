"""The studies' results: their page has the JSON's own figures, and each has its report beside."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]


def load_page():
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "results" / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_json_says():
    page = load_page()
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python results/page.py"


def test_a_claim_by_the_first_measure_alone_leaves_the_others_open():
    page = load_page()
    judged = {"over_seeds": {"mean": 0.01, "interval": None, "seeds": 1}, "verdict": "holds"}
    claim = {"claim": "flat", "verdict": "holds", "by": {"test/accuracy": judged}}
    study = {"measures": ["test/accuracy", "test/kl"], "claims": [claim]}
    assert "| flat | holds | +1.00 holds | \N{EN DASH} |" in list(page._claims(study))


def test_every_study_has_its_report_beside():
    studies = sorted((ROOT / "results").glob("*/*.json"))
    assert studies
    assert [path.with_suffix(".html") for path in studies] == sorted(
        (ROOT / "results").glob("*/*.html")
    )


def test_differences_have_their_interval_and_verdict():
    page = load_page()
    summary = {"mean": 0.0321, "interval": [0.021, 0.044], "seeds": 3}
    claim = {"over_seeds": summary, "verdict": "holds"}
    assert page._difference("test/accuracy", claim) == "+3.21 [+2.10, +4.40] holds"
    claim = {"over_seeds": {"mean": 0.041, "interval": None}, "verdict": "undecided"}
    assert page._difference("unseen/kl", claim) == "+0.0410 undecided"
