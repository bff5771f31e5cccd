"""Whole files only, and what is left of those that were not finished."""

from etils import epath

from pd_jax import files
from pd_jax.inputs import InputDigests


def test_partial_files_and_folders_are_removed_and_nothing_else(tmp_path):
    for name in ("a/.x.json.partial-7", "a/x.json", ".model.partial-7/w", ".model.replaced-9/w"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    files.remove_partial(tmp_path)
    assert [path.name for path in files.files_below(tmp_path)] == ["x.json"]
    files.remove_partial(tmp_path / "nowhere")


def test_a_folder_is_digested_by_all_files_below_it(tmp_path):
    folder = tmp_path / "teacher"
    (folder / "inside").mkdir(parents=True)
    for name in ("b", "inside/a", "c"):
        (folder / name).write_text(name)
    assert [path.name for path in files.files_below(folder)] == ["b", "c", "a"]

    def digest() -> str:
        return InputDigests(epath.Path(tmp_path / "inputs.json")).of(str(folder), stage="labels")

    before = digest()
    assert before == digest()
    (folder / "inside" / "a").write_text("other")
    assert before != digest()
