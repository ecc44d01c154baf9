"""Damaged, half-written and contested checkpoints: never a wrong number, always a reason.

The long versions are in tests/long/fault_injection.py.
"""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_worker import state_of

from zoo_jax.core.errors import CheckpointError
from zoo_jax.train import inventory
from zoo_jax.train.checkpoint import Checkpointer, read_checkpoint
from zoo_jax.train.workdir import lock_workdir

WORKER = pathlib.Path(__file__).with_name("checkpoint_worker.py")
SIZE = 500
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def worker(mode, folder, *, devices=1, **environment):
    return subprocess.Popen(
        [sys.executable, str(WORKER), mode, str(folder)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_steps")
    with Checkpointer(folder) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state_of(step, SIZE), iterator={}, meta={"a": 1})
    return folder


def restore(folder):
    with Checkpointer(folder) as checkpointer:
        return checkpointer.restore(state_of(0, SIZE))


def flip(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


DAMAGES = {
    "emptied": lambda data, rng: b"",
    "halved": lambda data, rng: data[: len(data) // 2],
    "a byte short": lambda data, rng: data[:-1],
    "zeroed": lambda data, rng: bytes(len(data)),
    "a bit flipped": lambda data, rng: flip(data, rng.randrange(8 * len(data))),
    "longer": lambda data, rng: data + b"\n",
    "deleted": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_named_and_the_step_before_is_restored(
    two_steps, tmp_path, caplog, damage
):
    rng = random.Random(damage)
    files = sorted(p for p in (two_steps / "2").rglob("*") if p.is_file())
    assert len(files) > 8
    for number, file in enumerate(files):
        caplog.clear()
        folder = tmp_path / str(number)
        shutil.copytree(two_steps, folder)
        target = folder / file.relative_to(two_steps)
        if DAMAGES[damage] is None:
            target.unlink()
        else:
            target.write_bytes(DAMAGES[damage](file.read_bytes(), rng))

        # Reading passes over the step and leaves it where it is.
        assert read_checkpoint(folder).step == 1
        assert (folder / "2").is_dir()
        caplog.clear()

        found = restore(folder)
        assert found.step == 1, file
        np.testing.assert_array_equal(
            found.state["noise"], state_of(1, SIZE)["noise"], strict=True
        )
        (record,) = caplog.records
        message = record.getMessage()
        assert record.levelname == "WARNING"
        assert f"step 2 in '{folder}' is damaged: " in message
        assert "set aside as 2.bad-1" in message
        name = file.relative_to(two_steps / "2").as_posix()
        if file.name != inventory.SUMS or damage == "deleted":
            assert name in message
        # Nothing is deleted, and the next start has nothing to say.
        assert sorted(p.name for p in folder.iterdir()) == ["1", "2.bad-1"]
        caplog.clear()
        assert restore(folder).step == 1
        assert not caplog.records


@pytest.mark.parametrize("name", [inventory.SUMS, "manifest.json", "state/_METADATA"])
def test_no_flipped_bit_in_what_describes_a_step_is_missed(two_steps, tmp_path, name):
    folder = tmp_path / "2"
    shutil.copytree(two_steps / "2", folder)
    data = (folder / name).read_bytes()
    inventory.verify(folder)
    for bit in random.Random(0).sample(range(8 * len(data)), 400):
        (folder / name).write_bytes(flip(data, bit))
        with pytest.raises(inventory.Damage):
            inventory.verify(folder)


@pytest.mark.parametrize("cut", ["a line lost", "a line twice", "lines swapped"])
def test_a_list_of_files_edited_by_line_is_found_out(two_steps, tmp_path, cut):
    folder = tmp_path / "2"
    shutil.copytree(two_steps / "2", folder)
    lines = (folder / inventory.SUMS).read_text().splitlines(keepends=True)
    edited = {
        "a line lost": lines[1:],
        "a line twice": lines[:1] + lines,
        "lines swapped": lines[::-1],
    }
    (folder / inventory.SUMS).write_text("".join(edited[cut]))
    with pytest.raises(inventory.Damage):
        inventory.verify(folder)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs coreutils")
def test_other_tools_can_check_a_step(two_steps):
    command = ["sha256sum", "--check", "--strict", "--quiet", inventory.SUMS]
    assert subprocess.run(command, cwd=two_steps / "2", check=False).returncode == 0


def test_orbax_alone_can_read_a_step(two_steps):
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(two_steps / "2" / "state")
    want = state_of(2, SIZE)
    assert found.keys() == want.keys()
    np.testing.assert_array_equal(found["noise"], want["noise"], strict=True)


def test_a_file_that_was_put_into_a_step_is_damage(two_steps, tmp_path, caplog):
    shutil.copytree(two_steps, tmp_path / "c")
    (tmp_path / "c/2/state/extra").write_text("")
    assert read_checkpoint(tmp_path / "c").step == 1
    assert "state/extra is not listed" in caplog.text


def test_several_bad_steps_are_passed_in_turn(two_steps, tmp_path, caplog):
    shutil.copytree(two_steps, tmp_path / "c")
    for step in (3, 4):
        shutil.copytree(two_steps / "2", tmp_path / f"c/{step}")
        (tmp_path / f"c/{step}/manifest.json").unlink()
    (tmp_path / "c/4.bad-1").mkdir()  # an earlier one of that number
    assert restore(tmp_path / "c").step == 2
    assert len(caplog.records) == 2
    assert "set aside as 4.bad-2" in caplog.records[0].getMessage()
    assert "set aside as 3.bad-1" in caplog.records[1].getMessage()


def test_without_any_good_step_nothing_starts_anew_by_itself(two_steps, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    (folder / "1/manifest.json").unlink()
    (folder / "2" / inventory.SUMS).unlink()
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(folder)
    for _ in range(2):  # nor does the second start
        with pytest.raises(CheckpointError) as error:
            restore(folder)
        assert "\n" not in str(error.value)
        assert "1.bad-1" in str(error.value)
        assert "2.bad-1" in str(error.value)
    assert "delete them to start anew" in str(error.value)


def test_a_step_asked_for_by_number_has_no_substitute(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "c")
    (tmp_path / "c/2/manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step 2 is damaged: manifest\.json"):
        read_checkpoint(tmp_path / "c", step=2)
    with (
        Checkpointer(tmp_path / "c") as checkpointer,
        pytest.raises(CheckpointError, match=r"step 2 .*manifest\.json is missing"),
    ):
        checkpointer.restore(state_of(0, SIZE), step=2)


def test_steps_that_were_set_aside_take_no_place(two_steps, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    (folder / "2/manifest.json").unlink()
    with Checkpointer(folder, keep_last=1) as checkpointer:
        assert checkpointer.restore(state_of(0, SIZE)).step == 1
        assert checkpointer.steps() == [1]
        assert checkpointer.latest_step() == 1
        checkpointer.save(3, state_of(3, SIZE), iterator={}, meta={})
    assert sorted(p.name for p in folder.iterdir()) == ["2.bad-1", "3"]


def test_what_a_killed_save_left_is_removed_and_nothing_else(two_steps, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    (folder / ".saving/3/state").mkdir(parents=True)
    (folder / ".saving/1.deleted").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    Checkpointer(folder).close()
    left = sorted(p.name for p in folder.iterdir())
    assert left == ["1", "2", "3.orbax-checkpoint-tmp", "notes.txt"]


def test_a_kill_while_a_step_is_replaced_keeps_the_old_one(two_steps, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    (folder / ".saving").mkdir()
    (folder / "2").rename(folder / ".saving/2.replaced")
    (folder / ".saving/2").mkdir()
    assert restore(folder).step == 2


def test_a_step_that_cannot_be_replaced_stays(two_steps, tmp_path, monkeypatch):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    rename = pathlib.Path.rename

    def fail(source, target):
        if source.parent.name == ".saving" and source.suffix != ".replaced":
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(pathlib.Path, "rename", fail)
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(2, state_of(3, SIZE), iterator={}, meta={})
        with pytest.raises(CheckpointError, match=r"save step 2 .* Input/output error"):
            checkpointer.wait()
    assert read_checkpoint(folder).state["step"] == 2
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_a_step_that_vanishes_while_it_is_read_is_no_damage(
    two_steps, tmp_path, caplog, monkeypatch
):
    """A running job makes room for a newer one between the listing and the reading."""
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    verify = inventory.verify

    def vanish(path):
        if path.name == "2":
            path.rename(folder / "3")
        verify(path)

    monkeypatch.setattr(inventory, "verify", vanish)
    assert read_checkpoint(folder).state["step"] == 2
    assert not caplog.records


def test_cut_off_at_any_moment_a_save_leaves_a_good_step(tmp_path, caplog):
    """Copies the folder before each change of a name in it: what a kill there would leave."""
    folder, cuts = tmp_path / "c", tmp_path / "cuts"
    armed, busy = threading.Event(), threading.Lock()

    def before_change(event, args):
        if not armed.is_set() or event not in CHANGES:
            return
        if busy.acquire(blocking=False):  # copying makes folders too
            cut = cuts / f"{len(list(cuts.iterdir())):03}"
            try:
                shutil.copytree(folder, cut)
            except (
                shutil.Error
            ):  # orbax's threads moved on meanwhile: no moment in time
                shutil.rmtree(cut)
            finally:
                busy.release()

    cuts.mkdir()
    state = {step: state_of(step, SIZE) for step in (1, 2)}
    with Checkpointer(folder, keep_last=1, asynchronous=False) as checkpointer:
        checkpointer.save(1, state[1], iterator={}, meta={})
        sys.addaudithook(
            before_change
        )  # stays for good, but does nothing when disarmed
        armed.set()
        checkpointer.save(2, state[2], iterator={}, meta={})  # deletes step 1
        checkpointer.save(2, state[2], iterator={}, meta={})  # replaces itself
        armed.clear()
    found = []
    for cut in sorted(cuts.iterdir()):
        restored = restore(cut)
        np.testing.assert_array_equal(
            restored.state["noise"], state[restored.step]["noise"]
        )
        assert sorted(p.name for p in cut.iterdir()) in (["1"], ["2"], ["1", "2"])
        for step in cut.iterdir():
            inventory.verify(step)
        found.append(restored.step)
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert len(found) > 20
    assert not caplog.records


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_a_run_killed_while_it_saves_leaves_whole_steps(tmp_path, delay, caplog):
    process = worker("save_forever", tmp_path)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(CheckpointError, match=rf"in use by process {process.pid} on"):
        lock_workdir(tmp_path).__enter__()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock_workdir(tmp_path), Checkpointer(tmp_path) as checkpointer:
        found = checkpointer.restore(state_of(0))
        assert found.step == found.state["step"] >= 1
        np.testing.assert_array_equal(
            found.state["noise"], state_of(found.step)["noise"]
        )
        assert not (tmp_path / ".saving").exists()
    assert not caplog.records


def test_a_full_disk_is_one_line_and_costs_no_good_step(tmp_path):
    assert output(worker("fill_the_disk", tmp_path)).splitlines() == [
        f"could not save step 2 in '{tmp_path}': File too large; step 1 is there",
        "quiet",
        "[1] 1",
        "3 [1, 3]",
    ]
    Checkpointer(tmp_path).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3"]


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1999)
    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        checkpointer.save(1, {"a": jnp.zeros(500)}, iterator={}, meta={})
        with pytest.raises(CheckpointError, match=r"needs 2,000 bytes, 1,999 are free"):
            checkpointer.save(2, {"a": jnp.zeros(10)}, iterator={}, meta={})
        assert not list(tmp_path.iterdir())
        checkpointer.save(2, {"a": jnp.zeros(10)}, iterator={}, meta={})
    assert checkpointer.steps() == [2]


def test_a_workdir_has_one_writer_at_a_time(tmp_path):
    workdir = tmp_path / "new" / "run"
    with lock_workdir(workdir) as path:
        assert path == workdir
        with pytest.raises(
            CheckpointError, match=f"in use by process {os.getpid()} on "
        ):
            lock_workdir(workdir).__enter__()
    process = worker("hold", workdir)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(CheckpointError) as error:
        lock_workdir(workdir).__enter__()
    message = str(error.value)
    assert f"process {process.pid} on {socket.gethostname()}" in message
    assert str(workdir) in message
    process.kill()
    process.communicate()
    with lock_workdir(workdir):
        pass


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", tmp_path / "file", "/proc/run"):
        with pytest.raises(CheckpointError, match="cannot write to workdir") as error:
            lock_workdir(place).__enter__()
        assert repr(str(place)) in str(error.value)


def test_several_processes_agree_on_what_is_good(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = [
        worker(
            "several",
            tmp_path,
            ZOO_COORDINATOR=f"127.0.0.1:{port}",
            ZOO_NUM_PROCESSES="2",
            ZOO_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    for index, process in enumerate(processes):
        lines = output(process).splitlines()
        foreign, full = [line for line in lines if not line.startswith("[Gloo]")]
        assert "it lacks other; it also has key, rows, step" in foreign
        assert full.startswith(f"could not save step 3 in '{tmp_path}'")
        assert ("File too large" in full) == (index == 0)
    Checkpointer(tmp_path).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.bad-1"]
    found = read_checkpoint(tmp_path).state
    want = np.arange(24, dtype=np.float32).reshape(8, 3) + 1
    np.testing.assert_array_equal(found["rows"], want)
    key = jax.random.wrap_key_data(jnp.asarray(found["key"]))
    assert jax.random.uniform(key) == jax.random.uniform(jax.random.key(1))
