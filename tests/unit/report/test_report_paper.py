import pytest

from pd_jax.report import paper


def test_figure_over_sizes_has_four_methods_at_24_sizes() -> None:
    found = paper.find(source=paper.FIGURE_SIZES)
    sizes = {value.position for value in found if value.method != paper.TEACHER}
    assert len(sizes) == 24
    assert len(found) == 4 * 24 + 1
    assert {value.error for value in found} == {paper.DIGITISED_ERROR}


def test_values_by_method_and_size() -> None:
    mini = {
        label: paper.method_value(task="SST-2", label=label, size="L4_H256")
        for label in ("Basic", "distillation", "PF", "PD")
    }
    assert {label: value and value.value for label, value in mini.items()} == {
        "Basic": 81.8,
        "distillation": 83.4,
        "PF": 85.9,
        "PD": 92.0,
    }
    tiny = paper.method_value(task="MNLI", label="pd", size="L2_H128")
    assert tiny is not None
    assert (tiny.value, tiny.source) == (72.2, "Figure 5")


def test_what_the_paper_does_not_say_is_none() -> None:
    assert paper.method_value(task="SST-2", label="PD-F", size="L4_H256") is None
    assert paper.method_value(task="SST-2", label="PD", size="L3_H100") is None
    assert paper.method_value(task="RTE", label="PD", size="L4_H256") is None
    assert paper.method_value(task="SST-2", label="my own", size="L4_H256") is None
    assert paper.method_value(task="", label="PD", size="L4_H256") is None


@pytest.mark.parametrize(
    ("label", "method"),
    [
        ("Basic training", "basic"),
        ("Pre-training + fine-tuning (PF)", "PF"),
        ("PD + fine-tuning (PD-F)", "PD-F"),
        ("Distillation", "distillation"),
        ("PD of a larger model", None),
        ("basic (twice as long)", None),
    ],
)
def test_methods_are_known_by_their_labels(label: str, method: str | None) -> None:
    assert paper.canonical_method(label) == method


def test_printed_tables() -> None:
    found = paper.find(source=paper.TABLE_TEST, task="MNLI-m", method=paper.PD)
    assert [(value.value, value.error) for value in found] == [(82.8, paper.PRINTED_ERROR)]
    assert len(paper.find(source=paper.TABLE_TEST)) == 4 * 9
    assert len(paper.find(source=paper.TABLE_DEV)) == 3 * 9


def test_other_figures() -> None:
    rows = paper.find(source=paper.FIGURE_ROWS, method="PD, L4_H256")
    assert [(value.position, value.value) for value in rows][-2:] == [
        (5_000_000, 88.0),
        (8_000_000, 88.0),
    ]
    far = [v for v in paper.find(source=paper.FIGURE_SIMILARITY) if v.position == 0.43]
    assert {value.method: value.value for value in far} == {
        "PD-F": 84.8,
        "PD": 82.5,
        "distillation": 78.9,
    }
    same = paper.find(source=paper.FIGURE_SAME_DATA, method=paper.PF)
    assert [value.value for value in same] == [61.3, 72.6, 72.5, 76.0, 76.7]
