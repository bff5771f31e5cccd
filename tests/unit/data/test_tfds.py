"""TFDS datasets on disk: read without TensorFlow, divided by rows, every fault named."""

import json
import shutil
import subprocess
import sys

import pytest

from pd_jax.config import Source
from pd_jax.data.text import corpora
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import SourceError


def read(source, shards=1):
    """Rows of all shards, as (text, label)."""
    found = [corpora.rows(piece) for pieces in corpora.split(source, shards) for piece in pieces]
    return [(row.text, row.label) for part in found for row in part]


TOY = """
import sys
import tensorflow_datasets as tfds

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["bad", "good"])
        features = tfds.features.FeaturesDict({"said": tfds.features.Text(), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(100):
            yield number, {"said": f"café {number}", "label": -1 if number == 7 else number % 2}

Toy(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared_dataset(tmp_path_factory):
    """The folder of a TFDS dataset `toy` of 100 rows, prepared as ArrayRecord by a real process."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "toy.py").write_text(TOY)
    subprocess.run(
        [sys.executable, folder / "toy.py", folder], check=True, capture_output=True, text=True
    )
    return folder


EXPECTED = sorted((f"café {n}", None if n == 7 else ["bad", "good"][n % 2]) for n in range(100))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["toy", "{folder}/toy/1.0.0"])
@pytest.mark.parametrize("shards", [1, 3])
def test_tfds_by_name_or_folder(prepared_dataset, monkeypatch, name, shards):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_dataset))
    path = f"tfds:{name.format(folder=prepared_dataset)}:train"
    source = Source(path=path, text="said", label="label")
    assert sorted(read(source, shards)) == EXPECTED
    assert len(read(Source(path=f"{path}[:10%]", text="said"))) == 10
    assert len(corpora.digest(corpora.source_files(source)[0])) == 32


@pytest.fixture(scope="module")
def framed_dataset(prepared_dataset, tmp_path_factory):
    """The folder that TensorFlow would have written: the same rows in 4 files of TFRecord."""
    import grain

    folder = tmp_path_factory.mktemp("framed") / "toy"
    shutil.copytree(prepared_dataset / "toy" / "1.0.0", folder)
    records = folder / "toy-train.array_record-00000-of-00001"
    held = grain.sources.ArrayRecordDataSource(str(records))
    payloads = [held[number] for number in range(100)]
    records.unlink()
    framed = [tfrecord.frame(content, tfrecord.crc32c(content)) for content in payloads]
    for part in range(4):
        content = b"".join(framed[25 * part : 25 * part + 25])
        (folder / f"toy-train.tfrecord-0000{part}-of-00004").write_bytes(content)
    info = json.loads(
        (folder / "dataset_info.json").read_text().replace("array_record", "tfrecord")
    )
    info["splits"][0]["shardLengths"] = ["25"] * 4
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert "said" in example.parse(payloads[0])
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_tfds_prepared_as_tfrecord_needs_no_tensorflow(framed_dataset, shards):
    source = Source(path=f"tfds:{framed_dataset}:train", text="said", label="label")
    assert sorted(read(source, shards)) == EXPECTED
    assert read(source, shards) == read(source)
    part = Source(path=f"tfds:{framed_dataset}:train[10%:60%]", text="said", label="label")
    assert read(part, shards) == read(source)[10:60]
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")
def test_a_shard_opens_no_tfrecord_file_that_holds_none_of_its_rows(framed_dataset, monkeypatch):
    opened, read_frames = [], tfrecord.read_frames
    monkeypatch.setattr(
        tfrecord, "read_frames", lambda path: opened.append(path[-10]) or read_frames(path)
    )
    shards = corpora.split(Source(path=f"tfds:{framed_dataset}:train", text="said"), 4)
    for number, (piece,) in enumerate(shards):
        opened.clear()
        assert len(list(corpora.rows(piece))) == 25
        assert opened == [str(number)]


@pytest.mark.filterwarnings("ignore")
def test_a_tfrecord_file_that_lacks_rows_is_named_by_each_shard_that_needs_them(
    framed_dataset, tmp_path
):
    folder = shutil.copytree(framed_dataset, tmp_path / "toy")
    (folder / "toy-train.tfrecord-00001-of-00004").write_bytes(b"")
    shards = corpora.split(Source(path=f"tfds:{folder}:train", text="said"), 8)
    for number, (piece,) in enumerate(shards):
        if number in (2, 3):
            with pytest.raises(SourceError, match=r"00001-of-00004 has fewer rows than the 25 "):
                list(corpora.rows(piece))
        else:
            assert len(list(corpora.rows(piece))) in (12, 13)


SEVERAL = """
import sys
import tensorflow_datasets as tfds

class Several(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = tfds.features.Sequence(tfds.features.ClassLabel(names=["bad", "good", "odd"]))
        words = tfds.features.Sequence(tfds.features.Text())
        features = {"text": tfds.features.Text(), "label": names, "words": words}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(4):
            words = [f"é{n}" for n in range(number)]
            yield number, {"text": str(number), "label": list(range(number)), "words": words}

Several(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.mark.filterwarnings("ignore")
def test_several_labels_of_a_row_become_their_names(tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL)
    command = [sys.executable, tmp_path / "several.py", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    path = f"tfds:{tmp_path}/several:train"
    expected = [("0", ""), ("1", "bad"), ("2", "bad|good"), ("3", "bad|good|odd")]
    assert sorted(read(Source(path=path, label="label"))) == expected
    expected = [("0", ""), ("1", "é0"), ("2", "é0|é1"), ("3", "é0|é1|é2")]
    assert sorted(read(Source(path=path, label="words"))) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tfds:glue/sst2:train", r"tfds:glue/sst2:train is not on disk.*TFDS_DATA_DIR"),
        ("tfds:toy", r"tfds:toy names no split; write tfds:NAME:SPLIT"),
        ("tfds:toy:test", r"tfds:toy:test has no split 'test'; its splits are train"),
        ("tfds:toy:train", r"row 1 has no column 'text'; its columns are 'label', 'said'"),
    ],
)
def test_tfds_faults_are_named(prepared_dataset, monkeypatch, path, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_dataset))
    with pytest.raises(SourceError, match=message):
        read(Source(path=path))
