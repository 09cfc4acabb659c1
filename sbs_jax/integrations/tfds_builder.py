"""The released data as a TFDS builder: ``distilling_step_by_step/{esnli,anli1,cqa,svamp}``.

Importing this module registers the builder, after which ``tfds.load`` and ``seqio.TfdsDataSource``
know it. The data comes from `manual_dir` (the original's datasets.zip, or its folder unpacked), or
is downloaded without one; TFDS writes it to any data_dir, cloud storage included.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from sbs_jax.datasets.records import Record
from sbs_jax.datasets.release import RELEASED, URL, Release
from sbs_jax.datasets.splits import train_test_rows
from sbs_jax.errors import UserError
from sbs_jax.utils import paths

_FEATURES = ("id", "input", "label", "rationale", "llm_label")


class DistillingStepByStep(tfds.core.GeneratorBasedBuilder):
    """Questions with gold label, and the rationale and label of PaLM 540B.

    Features, all text: ``id``, ``input``, ``label``, ``rationale``, ``llm_label`` (the last two
    empty where the archive holds no outputs). Splits are the original's: train, validation, test,
    with validation taken out of train (a tenth, seed 0) for cqa and svamp.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The data as released at ef94426."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=known.description)
        for name, known in RELEASED.items()
    ]
    ARCHIVE_URL = URL
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Optional: put the original's datasets.zip, or its unpacked folder, into manual_dir "
        f"({URL.partition('#')[0]}). It is downloaded when manual_dir is missing or empty."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Questions with gold label, and the rationale and label of PaLM 540B.",
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in _FEATURES}),
            supervised_keys=("input", "label"),
            homepage="https://github.com/google-research/distilling-step-by-step",
            # Rows stay in the order of the released files, or of the original's split.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        name = self.builder_config.name
        release = self._open(dl_manager)
        files = {
            split: functools.partial(release.records, name, split) for split in release.splits(name)
        }
        if not files:
            raise UserError(f"{name}: not in this archive ({', '.join(release.datasets())} are)")
        generators = {split: self._generate_examples(read) for split, read in files.items()}
        fraction = RELEASED[name].carve_validation
        if fraction and "train" in files:
            whole = list(files["train"]())
            train, validation = train_test_rows(len(whole), fraction, 0)
            generators["train"] = self._generate_examples(lambda: (whole[row] for row in train))
            generators["validation"] = self._generate_examples(
                lambda: (whole[row] for row in validation)
            )
        return generators

    def _generate_examples(
        self, read: Callable[[], Iterable[Record]]
    ) -> Iterator[tuple[int, dict[str, str]]]:
        for row, record in enumerate(read()):
            yield row, {name: getattr(record, name) or "" for name in _FEATURES}

    def _open(self, dl_manager: tfds.download.DownloadManager) -> Release:
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError:  # what TFDS raises for a folder that is missing or empty
            # Our own downloader: TFDS's would neither resume nor check git's id of the file.
            return Release(self.ARCHIVE_URL, paths.cache_home() / "downloads")
        zips = sorted(folder.glob("*.zip"))
        return Release(zips[0] if len(zips) == 1 else folder)
