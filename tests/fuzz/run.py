"""Fuzzes every reader of foreign bytes, guided by the branches it takes (atheris, libFuzzer).

    python tests/fuzz/run.py [READER ...] [--seconds=600] [--corpus=build/fuzz]

Each reader runs in a process of its own and continues from the corpus of earlier runs. Prints one
JSON line per reader: executions, instrumented branches reached (edges), inputs kept, and the
percentage of the reader's own lines and branches that these inputs reach. A bug ends its reader: a
traceback is shown, the input kept in CORPUS/bugs, and the exit status is 1.
"""

import argparse
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))  # for helpers and fuzz

# Their branches guide the search; zipfile and pickletools do part of the reading.
_INSTRUMENTED = ["sbs_jax", "zipfile", "pickletools", "gin.config_parser"]
_LIMITS = ("-max_len=16384", "-rss_limit_mb=4096", "-timeout=20")  # bytes, MB, seconds of one call
_PROGRESS = re.compile(r"^#(\d+)\s.*?cov: (\d+) ", re.MULTILINE)


def fuzz(name: str, arguments: list[str]) -> None:
    """Runs libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
        from fuzz import readers
    reader = readers.READERS[name]
    atheris.Setup([sys.argv[0], *arguments], lambda data: readers.check(reader, data))
    atheris.Fuzz()


def seed(name: str, corpus: Path) -> None:
    """Writes the valid inputs into the corpus."""
    from fuzz import readers

    for number, data in enumerate(readers.READERS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(data)


def reached(name: str, corpus: Path) -> None:
    """Prints the percentage of the reader's lines and branches that the corpus reaches."""
    import coverage
    from fuzz import readers

    reader = readers.READERS[name]
    source = importlib.import_module(reader.module).__file__
    measured = coverage.Coverage(branch=True, data_file=None, config_file=False, include=[source])
    measured.start()
    importlib.reload(sys.modules[reader.module])
    for path in sorted(corpus.iterdir()):
        readers.check(reader, path.read_bytes())
    measured.stop()
    print(round(measured.report(file=io.StringIO()), 1))


def run(name: str, seconds: int, corpus: Path) -> dict | None:
    """Fuzzes one reader in a child process; its figures, or None after a bug."""
    own, bugs = corpus / name, corpus / "bugs"
    for folder in (own, bugs):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": scratch}

        def child(*arguments: str, **options: object) -> subprocess.CompletedProcess:
            command = [sys.executable, __file__, *arguments]
            return subprocess.run(command, env=environment, text=True, **options)  # type: ignore

        child("--do=seed", name, str(own), check=True)
        bounds = (f"-max_total_time={seconds}", f"-artifact_prefix={bugs}/{name}-", *_LIMITS)
        done = child("--do=fuzz", name, str(own), *bounds, capture_output=True)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            return None
        measured = child("--do=reached", name, str(own), capture_output=True, check=True)
    executions, edges = _PROGRESS.findall(done.stderr)[-1]
    return {
        "reader": name,
        "seconds": seconds,
        "executions": int(executions),
        "edges": int(edges),
        "inputs": len(list(own.iterdir())),
        "covered_percent": float(measured.stdout.split()[-1]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*")
    parser.add_argument("--seconds", type=int, default=600, help="for each reader")
    parser.add_argument("--corpus", type=Path, default=TESTS.parent / "build" / "fuzz")
    args = parser.parse_args()
    from fuzz.readers import READERS

    failed = False
    for name in args.readers or READERS:
        figures = run(name, args.seconds, args.corpus)
        failed |= figures is None
        if figures:
            print(json.dumps(figures), flush=True)
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do=fuzz"]:
        fuzz(sys.argv[2], sys.argv[3:])
    elif sys.argv[1:2] in (["--do=seed"], ["--do=reached"]):
        {"--do=seed": seed, "--do=reached": reached}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
