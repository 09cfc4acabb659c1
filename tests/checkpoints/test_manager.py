"""Checkpoints under faults: whatever is cut off, damaged or full, the last good one is found."""

import contextlib
import errno
import gc
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers import xla
from jax.sharding import NamedSharding, PartitionSpec

from sbs_jax.checkpoints import integrity
from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.errors import UserError

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: optax.OptState


def make_state(step=0, width=64, devices=8, axes=("data", "model"), dtype=np.float32):
    """A state with sharded, replicated and scalar arrays; the numbers tell the step."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(-1, 2), axes)
    rng = np.random.default_rng(step)
    put = {
        "kernel": (rng.normal(size=(64, width)).astype(dtype), PartitionSpec(*axes)),
        "scale": (rng.normal(size=(20_000,)).astype(dtype), PartitionSpec()),
    }
    params = {
        "encoder": {
            name: jax.device_put(array, NamedSharding(mesh, spec))
            for name, (array, spec) in put.items()
        }
    }
    return State(jnp.int32(step), params, optax.adamw(1e-3).init(params))


def abstract(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def assert_equal(state, expected):
    got, want = jax.tree.leaves_with_path(state), jax.tree.leaves_with_path(expected)
    assert [path for path, _ in got] == [path for path, _ in want]
    for (path, a), (_, b) in zip(got, want, strict=True):
        assert a.dtype == b.dtype, path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
        assert a.sharding == b.sharding, path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints of steps 10, 20 and 30; tests that write copy it."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with CheckpointManager(directory, max_to_keep=3, metric="accuracy") as store:
        for step, accuracy in ((10, 0.5), (20, 0.75), (30, 0.25)):
            store.save(step, make_state(step))
            store.note({step: accuracy}, None)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_the_latest_state_comes_back_bit_for_bit(saved):
    with CheckpointManager(saved, read_only=True) as store:
        assert_equal(store.restore_latest(abstract(make_state())), make_state(30))


def test_steps_are_listed_and_ranked(saved):
    with CheckpointManager(saved, metric="accuracy", read_only=True) as store:
        assert (store.steps(), store.latest_step(), store.best_step()) == ([10, 20, 30], 30, 20)
        assert store.score(20) == (0.75, None)
        with pytest.raises(UserError, match=r"no usable checkpoint of step 11; has 10, 20, 30"):
            store.restore_params(11, make_state().params)


def test_a_state_is_restored_onto_another_mesh(saved):
    wanted = make_state(30, devices=2, axes=("fsdp", "model"))
    with CheckpointManager(saved, read_only=True) as store:
        assert_equal(store.restore_latest(abstract(wanted)), wanted)


def test_numpy_arrays_are_saved_and_restored_to_the_first_device(tmp_path):
    state = {"params": {"w": np.arange(6.0, dtype=np.float32)}}
    with CheckpointManager(tmp_path / "c") as store:
        store.save(1, state)
        assert store.restore_latest(state)["params"]["w"].tolist() == list(range(6))


def test_parameters_alone_are_restored_in_the_dtype_asked_for(saved):
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding),
        make_state().params,
    )
    with CheckpointManager(saved, metric="accuracy", read_only=True) as store:
        best, latest = (store.restore_params(step, wanted) for step in (20, 30))
    for params, step in ((best, 20), (latest, 30)):
        expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_state(step).params)
        assert_equal(params, expected)


def test_the_latest_and_the_best_are_kept(tmp_path):
    accuracies = {1: float("nan"), 2: 0.9, 3: 0.1, 4: None, 5: 0.9, 6: 0.2, 7: None}
    with CheckpointManager(tmp_path / "c", max_to_keep=2, metric="accuracy") as store:
        for step, accuracy in accuracies.items():
            store.save(step, {"params": {"w": np.ones(3)}})
            if accuracy is not None:
                store.note({step: accuracy}, None)
        store.wait()
        assert store.steps() == [5, 6, 7]
        assert store.best_step() == 5
    assert folders(tmp_path / "c") == ["5", "6", "7"]


def test_a_step_already_saved_is_not_written_again(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    with CheckpointManager(copy, max_to_keep=3, metric="accuracy") as store:
        store.save(30, make_state(1))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def folders(directory):
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def data_file(directory, step):
    """The largest file of a checkpoint: array data."""
    files = (path for path in (directory / str(step)).rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def truncate(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "data truncated": lambda d: truncate(data_file(d, 30)),
    "data deleted": lambda d: data_file(d, 30).unlink(),
    "data bit flipped": lambda d: flip_a_bit(data_file(d, 30)),
    "tree description truncated": lambda d: truncate(d / "30" / "state" / "_METADATA"),
    "tree description deleted": lambda d: (d / "30" / "state" / "_METADATA").unlink(),
    "state deleted": lambda d: shutil.rmtree(d / "30" / "state"),
    "checksums truncated": lambda d: truncate(d / "30" / "checksums.json"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over(copy, caplog, damage):
    damage(copy)
    with CheckpointManager(copy, metric="accuracy", read_only=True) as store:
        assert_equal(store.restore_latest(abstract(make_state())), make_state(20))
        assert store.latest_step() == 20
    (line,) = caplog.messages
    assert f"{copy}: the checkpoint of step 30 is damaged" in line and "\n" not in line


def test_damage_is_found_without_checksums_too(copy, caplog):
    """A checkpoint that other software wrote: what Orbax notices by itself."""
    (copy / "30" / "checksums.json").unlink()
    truncate(data_file(copy, 30))
    with CheckpointManager(copy, read_only=True) as store:
        assert int(store.restore_latest(make_state()).step) == 20
    assert len(caplog.messages) == 1


def test_a_checkpoint_without_checksums_is_used_if_it_reads(copy):
    (copy / "30" / "checksums.json").unlink()
    with CheckpointManager(copy, read_only=True) as store:
        assert_equal(store.restore_latest(make_state()), make_state(30))


def test_a_damaged_best_is_named_and_ranks_no_more(copy):
    truncate(data_file(copy, 20))
    with CheckpointManager(copy, metric="accuracy", read_only=True) as store:
        assert store.ranked_steps() == [20, 10, 30]
        with pytest.raises(UserError, match=r"checkpoints/20: damaged \(.* bytes instead of "):
            store.restore_params(20, make_state().params)
        assert store.ranked_steps() == [10, 30]
        assert_equal(store.restore_params(10, make_state().params), make_state(10).params)


def test_nothing_usable_is_an_error(copy, tmp_path):
    for step in (10, 20, 30):
        truncate(data_file(copy, step))
    store = CheckpointManager(copy, read_only=True)
    with store, pytest.raises(UserError, match="no usable checkpoint, 3 damaged"):
        store.restore_latest(make_state())
    with CheckpointManager(tmp_path / "empty") as store:
        assert store.steps() == [] and store.best_step() is None
        with pytest.raises(UserError, match="no usable checkpoint; train from"):
            store.restore_latest(make_state())


def test_training_goes_on_over_a_damaged_checkpoint(copy):
    """The step is saved again in its place, and the damaged one never counts as kept."""
    flip_a_bit(data_file(copy, 30))
    with CheckpointManager(copy, max_to_keep=2, metric="accuracy") as store:
        store.restore_latest(make_state())
        store.save(25, make_state(25))
        store.wait()
        assert store.steps() == [20, 25]
        assert folders(copy) == ["20", "25"]
    with CheckpointManager(copy, max_to_keep=2, metric="accuracy") as store:
        flip_a_bit(data_file(copy, 25))
        store.restore_latest(make_state())
        store.save(25, make_state(26))
        store.wait()
        assert integrity.damage(copy / "25") is None
        assert_equal(store.restore_latest(make_state()), make_state(26))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: make_state(width=32),
            r"30: opt_state/0/mu/encoder/kernel is float32\[64, 64\] in the checkpoint and "
            r"float32\[64, 32\]",
        ),
        (lambda s: make_state(dtype=np.float16), r"float32\[64, 64\] .* and float16\[64, 64\]"),
        (
            lambda s: s.replace(params={"encoder": {"kernel": s.params["encoder"]["kernel"]}}),
            r"params/encoder/scale is float32\[20000\] in the checkpoint and missing",
        ),
        (
            lambda s: s.replace(params={**s.params, "head": jnp.ones(3)}),
            r"params/head is missing in the checkpoint and float32\[3\]",
        ),
    ],
    ids=["shape", "dtype", "missing", "added"],
)
def test_another_model_is_refused_by_the_first_array_that_differs(saved, caplog, change, message):
    with CheckpointManager(saved, read_only=True) as store:
        with pytest.raises(UserError, match=message):
            store.restore_latest(change(make_state()))
        assert store.latest_step() == 30 and not caplog.messages


def test_parameters_of_another_model_are_refused(saved):
    message = r"params/encoder/kernel is \[64, 64\] in the checkpoint and \[64, 32\]"
    store = CheckpointManager(saved, read_only=True)
    with store, pytest.raises(UserError, match=message):
        store.restore_params(20, make_state(width=32).params)


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: writes fail as on a full disk (EFBIG for ENOSPC)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 20_000], ids=["nothing fits", "arrays do not fit"])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(copy, caplog, size, asynchronous):
    with CheckpointManager(
        copy, metric="accuracy", keep_best=0, asynchronous=asynchronous
    ) as store:
        with largest_file(size), pytest.raises(UserError) as caught:
            store.save(40, make_state(40))
            store.wait()
        message = str(caught.value)
        assert f"{copy}: the checkpoint of step 40 could not be written" in message
        assert os.strerror(errno.EFBIG) in message and "\n" not in message
        assert "that of step 30 is intact" in message
        assert folders(copy) == ["10", "20", "30"]
        assert_equal(store.restore_latest(make_state()), make_state(30))
        store.save(40, make_state(40))
        store.wait()
        assert folders(copy) == ["40"]
    gc.collect()
    assert not caplog.messages


def test_a_killed_save_never_counts(tmp_path):
    """SIGKILL while the files are written; the next run removes what was left."""
    script = """
        import os, signal, sys
        import numpy as np
        from sbs_jax.checkpoints import integrity
        from sbs_jax.checkpoints.manager import CheckpointManager

        store = CheckpointManager(sys.argv[1])
        store.save(1, {"params": {"w": np.ones(1000)}})
        store.wait()
        # All files are there by now, only the final name is missing.
        integrity.write = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
        store.save(2, {"params": {"w": np.ones(1000)}})
        store.wait()
    """
    directory = tmp_path / "c"
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), directory],
        cwd=REPOSITORY,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    left = [name for name in os.listdir(directory) if name.startswith("2.")]
    assert len(left) == 1
    with CheckpointManager(directory, read_only=True) as store:
        assert store.steps() == [1]
    assert left[0] in os.listdir(directory), "a reader removes nothing"
    with CheckpointManager(directory) as store:
        store.save(3, {"params": {"w": np.zeros(1000)}})
        store.wait()
        assert store.steps() == [3]
    assert os.listdir(directory) == ["3"]


@pytest.mark.slow
def test_two_processes_save_shards_and_agree_on_damage(tmp_path):
    """Each process writes its half; damage that only one of them reads is passed over by both."""
    script = """
        import sys
        import jax
        import numpy as np
        from sbs_jax.checkpoints.manager import CheckpointManager

        directory, address, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
        jax.distributed.initialize(address, 2, process)
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

        def state(step):
            whole = np.full((64, 1000), step, np.float32)
            return {"w": jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])}

        with CheckpointManager(directory, max_to_keep=2) as store:
            if not store.steps():
                for step in (1, 2):
                    store.save(step, state(step))
            else:
                restored = store.restore_latest(state(0))
                values = {float(x) for s in restored["w"].addressable_shards for x in s.data[:, 0]}
                assert values == {1.0}, values
        jax.distributed.shutdown()
    """
    directory = tmp_path / "c"
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(devices=2),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }

    def run():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        children = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), directory, address, str(process)],
                cwd=REPOSITORY,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in (0, 1)
        ]
        errors = [child.communicate(timeout=120)[1] for child in children]
        assert [child.returncode for child in children] == [0, 0], "\n".join(errors)
        return errors

    run()
    state = directory / "2" / "state"
    truncate(max(state.glob("ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size))
    for error in run():
        assert "the checkpoint of step 2 is damaged" in error


def test_a_reader_needs_a_directory(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        CheckpointManager(tmp_path / "none", read_only=True)


def test_a_place_that_cannot_hold_checkpoints_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/c: cannot hold checkpoints \(Not a directory\)"):
        CheckpointManager(tmp_path / "file" / "c")


def test_orbax_says_nothing(tmp_path, capfd):
    with CheckpointManager(tmp_path / "c") as store:
        store.save(1, make_state(1))
        store.wait()
        store.restore_latest(make_state())
    assert capfd.readouterr() == ("", "")


def test_checksums_cover_the_arrays(saved):
    sums = json.loads((saved / "30" / "checksums.json").read_text())
    assert {name.split("/")[0] for name in sums} == {"state"}
    assert str(data_file(saved, 30).relative_to(saved / "30")) in sums


def noted(directory, values, max_to_keep=1, keep_best=1):
    """A store of these (step, score, fingerprint), each saved first and scored afterwards."""
    with CheckpointManager(directory, max_to_keep, "accuracy", keep_best=keep_best) as store:
        for step, value, mark in values:
            store.save(step, {"params": {"w": np.ones(3)}})
            store.note({step: value}, mark)
        return store.steps(), store.best_step()


@pytest.mark.parametrize(
    ("values", "max_to_keep", "steps", "best"),
    [
        ([(1, 0.5, "a"), (2, 0.75, "a"), (3, 0.5, "a")], 1, [2, 3], 2),
        ([(1, 0.5, "a"), (2, 0.5, "a")], 1, [2], 2),  # of equals the later one
        ([(1, 1.0, "a"), (2, 0.5, "b"), (3, 0.75, "b")], 1, [3], 3),  # another validation split
        ([(1, 1.0, None), (2, 0.5, "b")], 1, [2], 2),  # a score of unknown questions
        ([(1, 0.5, "a"), (2, math.nan, "a")], 1, [1, 2], 1),
        ([(1, math.inf, "a"), (2, 0.25, "a")], 1, [2], 2),
        ([(1, 0.9, "a"), (2, 0.1, "b"), (3, 0.2, "a")], 3, [1, 2, 3], 1),  # the first split again
    ],
)
def test_a_score_competes_with_scores_of_the_same_questions_only(
    tmp_path, values, max_to_keep, steps, best
):
    assert noted(tmp_path / "c", values, max_to_keep) == (steps, best)
    with CheckpointManager(tmp_path / "c", metric="accuracy", read_only=True) as store:
        assert store.best_step() == best, "a reader ranks as the writer did"


def test_several_steps_are_scored_again_before_any_is_removed(tmp_path):
    with CheckpointManager(tmp_path / "c", 1, "accuracy", keep_best=2) as store:
        for step, value in ((1, 0.9), (2, 0.8), (3, 0.1)):
            store.save(step, {"params": {"w": np.ones(3)}})
            store.note({step: value}, "before")
        assert store.steps() == [1, 2, 3]
        store.note({1: 0.1, 2: 0.7, 3: 0.2}, "now")
        assert (store.steps(), store.best_step()) == ([2, 3], 2)


def test_checkpoints_of_earlier_versions_hold_their_score_inside(tmp_path):
    with CheckpointManager(tmp_path / "c", 2, "accuracy") as store:
        for step, accuracy in ((1, 0.75), (2, 0.5)):
            store.save(step, {"params": {"w": np.ones(3)}})
            store.wait()
            note = {"step": step, "extra": {}, "metrics": {"accuracy": accuracy}}
            (tmp_path / "c" / str(step) / "extra").mkdir()
            path = tmp_path / "c" / str(step) / "extra" / "metadata"
            path.write_text(json.dumps(note))
    assert not (tmp_path / "c" / "scores.json").exists()
    with CheckpointManager(tmp_path / "c", 2, "accuracy") as store:
        assert store.best_step() == 1 and store.score(1) == (0.75, None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"1": 0.5}', '{"x": {"accuracy": 1}}'])
def test_a_damaged_score_file_only_loses_the_ranking(tmp_path, text):
    noted(tmp_path / "c", [(1, 0.5, "a")])
    (tmp_path / "c" / "scores.json").write_text(text)
    with CheckpointManager(tmp_path / "c", metric="accuracy", read_only=True) as store:
        assert (store.best_step(), store.latest_step()) == (None, 1)


def test_a_folder_that_goes_while_orbax_clears_and_lists_it_is_opened_again(tmp_path, monkeypatch):
    """In a bucket a folder ends with its last file; seen when a run's first save was killed."""
    opened = []

    class Racing(ocp.CheckpointManager):
        def __init__(self, directory, *args, **options):
            opened.append(directory)
            if len(opened) == 1:
                raise FileNotFoundError(directory)
            super().__init__(directory, *args, **options)

    monkeypatch.setattr(ocp, "CheckpointManager", Racing)
    with CheckpointManager(tmp_path / "checkpoints") as store:
        assert store.steps() == [] and len(opened) == 2
    opened.clear()
    with pytest.raises(UserError, match="cannot hold checkpoints"):
        CheckpointManager(tmp_path / "checkpoints", read_only=True)
