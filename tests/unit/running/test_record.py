"""What a workdir's record of a pipeline allows another run to change."""

import dataclasses

import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.errors import StageError
from pd_jax.record import Record

STAGE = config_lib.RecordsStage(
    source=config_lib.Source(path="rows.tsv", text="txet"),
    tokenizer="vocab.txt",
    examples=config_lib.Rows(),
    max_length=16,
)
RIGHT = dataclasses.replace(STAGE, source=config_lib.Source(path="rows.tsv", text="text"))


def record(workdir, stage: config_lib.RecordsStage) -> Record:
    pipeline = config_lib.Pipeline(name="own", stages={"transfer": stage})
    return Record(epath.Path(workdir), pipeline, "the command")


def test_a_mistake_may_be_corrected_until_its_stage_has_something_to_lose(tmp_path):
    first = record(tmp_path, STAGE)
    assert not first.is_kept()
    folder = tmp_path / "stages" / "transfer-1"
    first.place("transfer", epath.Path(folder), done=False)
    first.write()
    assert first.is_kept() and not record(tmp_path, RIGHT).is_kept()
    folder.mkdir(parents=True)
    record(tmp_path, RIGHT).check_unchanged(changed=False)
    (folder / "done.json").write_text("{}")
    with pytest.raises(StageError, match=r'source.text was "txet", is "text"\); .* add --changed'):
        record(tmp_path, RIGHT).check_unchanged(changed=False)
    record(tmp_path, RIGHT).check_unchanged(changed=True)
