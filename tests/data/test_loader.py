import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError, DeviceError, MediaError
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.source import ArraySource
from zoo_jax.data.stream import ExampleRngs, epoch_order

N, B = 23, 6
AUGMENT = [
    {"name": "random_crop", "pad": 2},
    {"name": "horizontal_flip"},
    {"name": "to_float"},
]


class OneByOne:
    """The same examples without `take`; those in `bad` cannot be read."""

    def __init__(self, source, bad=()):
        self.source, self.bad = source, frozenset(bad)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index in self.bad:
            raise MediaError(f"file_{index}.png: damaged")
        return self.source[index]


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    return ArraySource(
        {
            "image": rng.integers(0, 256, (N, 5, 7, 3), dtype=np.uint8),
            "id": np.arange(N, dtype=np.int32),
        }
    )


def some(batches, count):
    with batches:
        return list(itertools.islice(batches, count))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def ids(batches):
    return np.concatenate([batch["id"] for batch in batches])


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_example_once_and_runs_across_batches(source, shuffle):
    batches = train_batches(source, batch_size=B, seed=3, shuffle=shuffle)
    stream = ids(some(batches, N))  # B epochs
    epochs = stream.reshape(B, N)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(N), (B, 1)))
    distinct = len(np.unique(epochs, axis=0))
    assert distinct == (B if shuffle else 1)


def test_the_order_follows_from_the_seed(source):
    first, again, other = (
        ids(some(train_batches(source, batch_size=B, seed=seed), 4))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_order_of_an_epoch_never_changes_between_versions():
    assert epoch_order(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


@pytest.mark.parametrize("workers", [2, 4])  # one: below, where bad files are skipped
def test_workers_change_nothing(source, workers):
    def batches(count):
        return train_batches(
            OneByOne(source), batch_size=B, seed=1, transform=AUGMENT, workers=count
        )

    assert_same(some(batches(workers), 9), some(batches(0), 9))


def test_reading_whole_batches_changes_nothing(source):
    kwargs = {"batch_size": B, "seed": 1, "transform": AUGMENT}
    ours = some(train_batches(source, **kwargs), 9)
    assert_same(ours, some(train_batches(OneByOne(source), **kwargs), 9))


def test_augmentation_differs_between_epochs_and_seeds(source):
    def first_image(seed, g):
        batches = train_batches(
            source, batch_size=N, seed=seed, transform=AUGMENT, shuffle=False, start=g
        )
        return some(batches, 1)[0]["image"]

    assert (first_image(0, 0) != first_image(0, 1)).any()
    assert (first_image(0, 0) != first_image(1, 0)).any()


@pytest.mark.parametrize("stop", range(0, 9, 2))
def test_a_restart_at_any_batch_continues_the_stream(source, stop):
    kwargs = {"batch_size": B, "seed": 5, "transform": AUGMENT}
    whole = some(train_batches(source, **kwargs), 10)
    with train_batches(source, **kwargs) as first:
        for _ in range(stop):
            next(first)
        state = json.loads(json.dumps(first.state()))
    second = train_batches(OneByOne(source), **kwargs)
    second.restore(state)
    assert_same(some(second, 10 - stop), whole[stop:])
    third = train_batches(source, start=stop, **kwargs)
    assert_same(some(third, 10 - stop), whole[stop:])


def test_restore_goes_back_after_reading_ahead(source):
    with train_batches(OneByOne(source), batch_size=B, seed=5) as batches:
        start = batches.state()
        first = next(batches)
        next(batches)
        batches.restore(start)
        assert_same([next(batches)], [first])


@pytest.mark.parametrize(
    "change", [{"seed": 6}, {"batch_size": B + 1}, {"shuffle": False}]
)
def test_a_state_of_another_stream_is_refused(source, change):
    kwargs = {"batch_size": B, "seed": 5, "shuffle": True}
    state = train_batches(source, **kwargs).state()
    other = train_batches(source, **{**kwargs, **change})
    (name,) = change
    with pytest.raises(DataError, match=f"{name} was {kwargs[name]}.* restore the old"):
        other.restore(state)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_the_global_batch(source, count):
    kwargs = {"batch_size": 8, "seed": 7, "transform": AUGMENT}
    whole = some(train_batches(source, **kwargs), 5)
    parts = [
        some(
            train_batches(source, process_index=i, process_count=count, **kwargs),
            5,
        )
        for i in range(count)
    ]
    merged = [
        {name: np.concatenate([p[name] for p in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_same(merged, whole)


@pytest.mark.parametrize(("count", "workers"), [(1, 0), (2, 0), (4, 0), (1, 1)])
def test_eval_has_every_example_once_in_order(source, count, workers):
    parts = [
        list(
            eval_batches(
                source,
                batch_size=8,
                process_index=i,
                process_count=count,
                workers=workers,
            )
        )
        for i in range(count)
    ]
    assert [len(p) for p in parts] == [3] * count
    for batch in itertools.chain(*parts):
        assert batch["image"].shape == (8 // count, 5, 7, 3)
        assert batch["mask"].dtype == np.float32
        assert batch["mask"].shape == (8 // count,)
    merged = [
        {name: np.concatenate([p[name] for p in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    stream, mask = ids(merged), np.concatenate([b["mask"] for b in merged])
    np.testing.assert_array_equal(stream[mask == 1], np.arange(N))
    np.testing.assert_array_equal(mask, [1] * N + [0] * (24 - N))


def test_eval_can_be_iterated_again(source):
    batches = eval_batches(source, batch_size=8, transform=AUGMENT)
    assert len(batches) == 3
    assert_same(list(batches), list(batches))


def test_a_bad_example_is_an_error_by_default(source):
    with (
        train_batches(OneByOne(source, {4}), batch_size=N, seed=0) as batches,
        pytest.raises(MediaError, match=r"file_4\.png: damaged"),
    ):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_example_takes_the_place_of_a_bad_one(source, workers, tmp_path):
    report = tmp_path / "new" / "bad.jsonl"
    kwargs = {"batch_size": B, "seed": 2, "max_skipped": 0.1, "on_error": "skip"}
    good = ids(some(train_batches(source, batch_size=B, seed=2), 8))
    skipped = train_batches(
        OneByOne(source, {4, 9}), report=report, workers=workers, **kwargs
    )
    ours = ids(some(skipped, 8))
    position = np.flatnonzero(~np.isin(good, [4, 9]))
    np.testing.assert_array_equal(ours[position], good[position])
    for p in np.flatnonzero(np.isin(good, [4, 9])):
        order = epoch_order(N, 2, p // N)
        following = [order[(p % N + k) % N] for k in range(3)]
        assert ours[p] == next(i for i in following if i not in (4, 9))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [4, 9]  # once, though seen twice
    assert {line["error"] for line in lines} == {
        "file_4.png: damaged",
        "file_9.png: damaged",
    }


def test_a_report_is_continued_after_a_restart(source, tmp_path):
    kwargs = {"batch_size": N, "seed": 2, "max_skipped": 0.05, "on_error": "skip"}
    kwargs["report"] = tmp_path / "bad.jsonl"
    some(train_batches(OneByOne(source, {4}), **kwargs), 2)
    some(train_batches(OneByOne(source, {4}), **kwargs), 2)
    assert len(kwargs["report"].read_text().splitlines()) == 1
    with pytest.raises(DataError, match="2 of 23 examples cannot be read, more than"):
        some(train_batches(OneByOne(source, {5}), **kwargs), 2)


@pytest.mark.parametrize("make", [train_batches, eval_batches])
def test_too_many_bad_examples_are_an_error(source, make):
    kwargs = {} if make is eval_batches else {"seed": 0}
    batches = make(
        OneByOne(source, range(20)),
        batch_size=B,
        on_error="skip",
        max_skipped=0.1,
        **kwargs,
    )
    with pytest.raises(DataError, match=r"cannot be read.*more than the 2.*file_\d+"):
        list(itertools.islice(batches, 9))


def test_eval_masks_bad_examples(source):
    batches = list(
        eval_batches(
            OneByOne(source, {4, N - 1}), batch_size=8, on_error="skip", max_skipped=0.1
        )
    )
    stream = ids(batches)
    mask = np.concatenate([b["mask"] for b in batches])
    expected = [i for i in range(N) if i not in (4, N - 1)]
    np.testing.assert_array_equal(stream[mask == 1], expected)


@pytest.mark.parametrize("make", [train_batches, eval_batches])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.0}, ConfigError, "batch_size"),
        ({"workers": -1}, ConfigError, "workers"),
        ({"process_count": 4}, DeviceError, "6 does not divide among 4 processes"),
        ({"process_index": 1}, DeviceError, "process_index 1"),
        ({"max_skipped": 2}, ConfigError, r"max_skipped is a share in \[0, 1\], got 2"),
        ({"on_error": "ignore"}, ConfigError, 'on_error must be "raise" or "skip"'),
        ({"transform": [{"name": "flip"}]}, ConfigError, "unknown transform 'flip'"),
    ],
)
def test_wrong_values_are_named(source, make, change, error, match):
    kwargs = {"batch_size": B} if make is eval_batches else {"batch_size": B, "seed": 0}
    with pytest.raises(error, match=match):
        make(source, **{**kwargs, **change})


def test_an_empty_source_is_an_error():
    empty = ArraySource({"id": np.zeros(0)})
    with pytest.raises(DataError, match="no examples"):
        train_batches(empty, batch_size=1, seed=0)


def test_images_of_different_sizes_are_named():
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    mixed = [{"image": image} for image in images]
    with (
        train_batches(mixed, batch_size=2, seed=0) as batches,
        pytest.raises(DataError, match=r"shape of 'image': \(4, [45], 3\)"),
    ):
        next(batches)


def test_closing_ends_the_reading_thread(source):
    before = set(threading.enumerate())
    batches = train_batches(OneByOne(source), batch_size=B, seed=0)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    batches.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


SCRIPT = """
import os, sys, time
import numpy as np
from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import ArraySource

def slow(example, rng):
    return {**example, "pid": os.getpid()}

if __name__ == "__main__":
    # Large enough to fill the start-up pipe of a worker.
    source = ArraySource({"x": np.zeros((1000, 1000), np.float32)})
    batches = train_batches(source, batch_size=4, seed=0, transform=slow, workers=1)
    print(next(batches)["pid"][0], flush=True)
    while True:
        next(batches)
elif "--die" in sys.argv:
    os._exit(3)
"""


def run_script(tmp_path, root, *args):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, str(path), *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def gone(pid):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_an_interrupted_or_killed_process(tmp_path, root, signum):
    process = run_script(tmp_path, root)
    worker = int(process.stdout.readline())
    assert worker != process.pid
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # as a terminal does
    else:
        process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert gone(worker)
    if signum == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1
    assert not list(tmp_path.glob("zoo_jax_batches_*"))


def test_a_worker_that_dies_while_it_starts_is_an_error_and_no_hang(tmp_path, root):
    process = run_script(tmp_path, root, "--die")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Worker process" in errors


def test_each_example_has_random_numbers_of_its_own_whatever_came_before():
    rngs = ExampleRngs(5)
    for position in (7, 0, 7, 2**40):
        drawn = rngs(position)
        fresh = np.random.Generator(
            np.random.Philox(
                key=np.array([5, position], np.uint64),
                counter=np.array([0, 0, 0, 1], np.uint64),
            )
        )
        assert drawn.random() == fresh.random()
        assert (
            drawn.integers(100, size=3).tolist() == fresh.integers(100, size=3).tolist()
        )
