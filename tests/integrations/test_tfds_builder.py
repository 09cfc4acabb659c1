"""The builder, read back through TFDS and through SeqIO."""

import pathlib

import pytest
from helpers.fixtures_release import TEST, TRAIN, VALIDATION, write_release, zip_folder

from sbs_jax.datasets.records import Record
from sbs_jax.datasets.release import Release
from sbs_jax.datasets.splits import train_test_rows
from sbs_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

from sbs_jax.integrations import tfds_builder  # noqa: E402  (only where TFDS is installed)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Keeps TFDS from asking its cloud bucket, and everything from the real home folder."""
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def _build(config: str, data_dir: pathlib.Path, manual_dir: pathlib.Path, **options: object):
    builder = tfds_builder.DistillingStepByStep(config=config, data_dir=data_dir, **options)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return builder


def _read(config: str, split: str, data_dir: pathlib.Path) -> list[Record]:
    name = f"distilling_step_by_step/{config}"
    dataset = tfds.load(name, split=split, data_dir=data_dir, download=False)
    rows = tfds.as_numpy(dataset)
    return [Record(**{k: v.decode() for k, v in row.items()}) for row in rows]


def test_carved_validation_as_the_original_does(tmp_path: pathlib.Path) -> None:
    made = write_release(tmp_path / "made")
    _build("cqa", tmp_path / "D", made)
    whole = list(Release(made).records("cqa", "train"))
    train, validation = train_test_rows(TRAIN, 0.1, 0)
    assert _read("cqa", "train", tmp_path / "D") == [whole[row] for row in train]
    assert _read("cqa", "validation", tmp_path / "D") == [whole[row] for row in validation]
    assert len(_read("cqa", "test", tmp_path / "D")) == TEST


def test_a_validation_file_and_a_zip(tmp_path: pathlib.Path) -> None:
    made = write_release(tmp_path / "made", "anli1")
    (tmp_path / "manual").mkdir()
    zip_folder(made, tmp_path / "manual" / "datasets.zip")
    builder = _build("anli1", tmp_path / "D", tmp_path / "manual")
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    assert sizes == {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    records = list(Release(made).records("anli1", "train"))
    assert _read("anli1", "train", tmp_path / "D") == records


def test_without_teacher_outputs_text_is_empty(tmp_path: pathlib.Path) -> None:
    made = write_release(tmp_path / "made", "svamp")
    for path in (made / "datasets" / "svamp" / "llm").glob("test_*"):
        path.unlink()
    _build("svamp", tmp_path / "D", made)
    record = _read("svamp", "test", tmp_path / "D")[0]
    assert (record.rationale, record.llm_label) == ("", "")


def test_seqio_reads_it(tmp_path: pathlib.Path) -> None:
    seqio = pytest.importorskip("seqio")
    _build("svamp", tmp_path / "D", write_release(tmp_path / "made", "svamp"))
    source = seqio.TfdsDataSource(
        "distilling_step_by_step/svamp:1.0.0", tfds_data_dir=str(tmp_path / "D")
    )
    rows = list(source.get_dataset("test", shuffle=False).as_numpy_iterator())
    assert [row["id"].decode() for row in rows] == [f"svamp-test-{i}" for i in range(TEST)]


def test_without_manual_dir_the_archive_is_downloaded(tmp_path: pathlib.Path) -> None:
    class Elsewhere(tfds_builder.DistillingStepByStep):
        ARCHIVE_URL = "http://127.0.0.1:1/datasets.zip#sha256=no"

    builder = Elsewhere(config="svamp", data_dir=tmp_path / "D")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/datasets\.zip.*a digest is"):
        builder.download_and_prepare()


def test_a_dataset_that_is_absent(tmp_path: pathlib.Path) -> None:
    made = write_release(tmp_path / "made", "svamp")
    with pytest.raises(UserError, match=r"cqa: not in this archive \(svamp are\)"):
        _build("cqa", tmp_path / "D", made)


def test_the_real_svamp(release_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    builder = _build("svamp", tmp_path / "D", release_dir)
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    assert sizes == {"train": 720, "validation": 80, "test": 200}
    first = [record.id for record in _read("svamp", "train", tmp_path / "D")[:5]]
    assert first == [f"svamp-train-{row}" for row in (792, 273, 165, 521, 790)]
