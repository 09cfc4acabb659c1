"""The workers' logs: in STUDY_DIR, or, of a study in a bucket, on this machine with copies there.

A process that writes to its log cannot write to an object, which is there as a whole or not at all.
"""

import hashlib
import socket
from pathlib import Path

from sbs_jax.utils import paths
from sbs_jax.utils.console import say
from sbs_jax.utils.files import write_bytes

FOLDER = "logs"


class Logs:
    """The logs of one start of a study.

    Args:
        study_dir: STUDY_DIR.
        name: of the subfolder; empty where a single machine has the study.

    Attributes:
        folder: on this machine, for workers to write to.
    """

    def __init__(self, study_dir: Path, name: str) -> None:
        self.folder = study_dir / FOLDER / name
        self._copies: Path | None = None
        if paths.is_remote(study_dir):
            # Another machine may continue the study; its logs do not replace this one's.
            self._copies = study_dir / FOLDER / (name or socket.gethostname())
            mark = hashlib.sha256(str(study_dir).encode()).hexdigest()[:8]
            of_study = paths.cache_home() / "studies" / f"{study_dir.name}-{mark}"
            self.folder = of_study / FOLDER / name

    def __str__(self) -> str:
        copied = f", copied to {self._copies} after every run" if self._copies else ""
        return f"{self.folder}{copied}"

    def copy(self) -> None:
        """Copies what is written so far into the bucket; says so where that fails."""
        if self._copies is None:
            return
        for log in sorted(self.folder.glob("*.log")):
            try:
                write_bytes(self._copies / log.name, log.read_bytes())
            except OSError as error:
                say(f"{log}: not copied to {self._copies} ({error.strerror})")
