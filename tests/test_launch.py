"""The start scripts: clean shell, right commands, arguments passed on unharmed."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

# Every character that a careless script would split, expand or drop.
ARGUMENTS = ["--config=c.py:tour,seed=3", "--workdir=/mnt/a b/$HOME", "--note=it's *"]
LOG = 'printf "%s|" "$(basename "$0")" "$@" >>"$LOG"; echo >>"$LOG"\n'


def make_tool(folder: pathlib.Path, name: str, body: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / name
    tool.write_text("#!/usr/bin/env bash\n" + body)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return tool


@pytest.fixture
def launch(root, tmp_path):
    """Runs a start script with stand-ins first on PATH; returns (process, their calls)."""
    log = tmp_path / "calls.log"

    def run(script, *arguments, cwd=root, path=None, **variables):
        environment = {
            **os.environ,
            "PATH": f"{tmp_path / 'tools'}:{os.environ['PATH']}",
            "LOG": str(log),
            "EXTRAS": "",  # that of a make around the tests
            **variables,
        }
        log.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", path or root / "experiments/launch" / script, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )
        calls = log.read_text().splitlines() if log.exists() else []
        return done, [call.rstrip("|").split("|") for call in calls]

    return run


def scripts(root) -> list[pathlib.Path]:
    return [
        *sorted((root / "experiments/launch").glob("*.sh")),
        *sorted((root / "constraints").glob("*.sh")),
        root / ".ci/run",
    ]


def test_shellcheck_finds_nothing(root):
    tool = pathlib.Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, *scripts(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["gpu_single.sh", "gpu_slurm.sh", "tpu_vm.sh"])
def test_help_shows_usage_and_no_arguments_is_a_mistake(launch, name):
    done, calls = launch(name, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert "DRY_RUN=1" in done.stdout
    assert "#" not in done.stdout.splitlines()[0]
    assert launch(name)[0].returncode == 2
    assert calls == []


class TestOneMachine:
    def test_runs_the_binary_with_the_arguments(self, launch, tmp_path):
        python = make_tool(tmp_path, "python", LOG)
        done, calls = launch(
            "gpu_single.sh", *ARGUMENTS, PYTHON=str(python), BINARY="run"
        )
        assert done.returncode == 0, done.stderr
        assert calls[-1] == ["python", "-m", "experiments.run", *ARGUMENTS]

    def test_dry_run_prints_and_does_nothing(self, launch, tmp_path):
        python = make_tool(tmp_path, "python", LOG)
        done, calls = launch(
            "gpu_single.sh", *ARGUMENTS, PYTHON=str(python), DRY_RUN="1"
        )
        assert calls == []
        # What is printed means the same to a shell.
        subprocess.run(
            ["bash", "-c", done.stdout], env={"LOG": str(tmp_path / "calls.log")}
        )
        again = (tmp_path / "calls.log").read_text().rstrip("|\n").split("|")
        assert again == ["python", "-m", "experiments.train", *ARGUMENTS]

    def test_no_gpu_is_said_in_one_line(self, launch):
        done, _ = launch(
            "gpu_single.sh", *ARGUMENTS, PYTHON=sys.executable, JAX_PLATFORMS="cpu"
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "no GPU" in done.stderr


class TestSlurm:
    JOB = {"SLURM_JOB_ID": "77", "PYTHON": "/venv/python"}  # noqa: RUF012

    def tools(self, folder, code: int) -> None:
        make_tool(folder / "tools", "srun", LOG + f"exit {code}\n")
        make_tool(folder / "tools", "scontrol", LOG)

    def test_one_srun_with_the_arguments(self, launch, tmp_path):
        self.tools(tmp_path, 0)
        done, calls = launch(
            "gpu_slurm.sh", *ARGUMENTS, SLURM_SUBMIT_DIR=str(tmp_path), **self.JOB
        )
        assert done.returncode == 0, done.stderr
        [call] = calls
        start = call.index("/venv/python")
        binary = ["/venv/python", "-m", "experiments.train", "--distributed=auto"]
        assert call[start:] == [*binary, *ARGUMENTS]

    def test_a_job_that_saved_and_stopped_is_requeued(self, launch, tmp_path):
        self.tools(tmp_path, 143)
        done, calls = launch("gpu_slurm.sh", *ARGUMENTS, **self.JOB)
        assert done.returncode == 143
        assert calls[1:] == [["scontrol", "requeue", "77"]]

    def test_a_job_that_failed_is_not_requeued(self, launch, tmp_path):
        self.tools(tmp_path, 2)
        done, calls = launch("gpu_slurm.sh", *ARGUMENTS, **self.JOB)
        assert done.returncode == 2
        assert [call[0] for call in calls] == ["srun"]

    def test_restarts_end(self, launch, tmp_path):
        self.tools(tmp_path, 143)
        done, calls = launch(
            *("gpu_slurm.sh", *ARGUMENTS),
            **self.JOB,
            SLURM_RESTART_COUNT="3",
            MAX_RESTARTS="3",
        )
        assert done.returncode == 1
        assert "after 3 restarts" in done.stderr
        assert [call[0] for call in calls] == ["srun"]

    def test_outside_a_job_it_says_sbatch(self, launch):
        done, calls = launch("gpu_slurm.sh", *ARGUMENTS, SLURM_JOB_ID="")
        assert (done.returncode, calls) == (2, [])
        assert "sbatch" in done.stderr

    def test_dry_run_calls_nothing(self, launch, tmp_path):
        self.tools(tmp_path, 0)
        done, calls = launch("gpu_slurm.sh", *ARGUMENTS, **self.JOB, DRY_RUN="1")
        assert (done.returncode, calls) == (0, [])
        assert done.stdout.startswith("srun ")

    def test_directives_ask_for_one_process_per_gpu_and_a_warning(self, root):
        text = (root / "experiments/launch/gpu_slurm.sh").read_text()
        options = dict(
            line.removeprefix("#SBATCH --").partition("=")[::2]
            for line in text.splitlines()
            if line.startswith("#SBATCH ")
        )
        assert options["ntasks-per-node"] == options["gpus-per-node"]
        assert options["signal"].startswith("TERM@")
        assert "requeue" in options


class TestTpu:
    VM = {"TPU": "pod", "ZONE": "zone-a"}  # noqa: RUF012

    def commit(self, folder) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (
            ["init", "--quiet"],
            ["add", "."],
            [*who, "commit", "--quiet", "--message=Change"],
        ):
            subprocess.run(["git", *command], cwd=folder, check=True)

    @pytest.fixture
    def checkout(self, root, tmp_path) -> pathlib.Path:
        """A small repository with the script, whose installation is a stand-in."""
        folder = tmp_path / "checkout"
        (folder / "experiments/launch").mkdir(parents=True)
        shutil.copy(
            root / "experiments/launch/tpu_vm.sh", folder / "experiments/launch"
        )
        make_tool(
            folder / "constraints",
            "install.sh",
            'mkdir -p "$1/bin"; cp ../python "$1/bin/python"; cp ../python "$1/bin/pip"\n'
            + LOG,
        )
        self.commit(folder)
        return folder

    @pytest.fixture
    def worker(self, tmp_path) -> pathlib.Path:
        """The home folder of a worker; gcloud copies there and runs commands there."""
        home = tmp_path / "worker"
        make_tool(home, "python", 'if [ "$1" = -c ]; then echo 9.9; exit; fi\n' + LOG)
        make_tool(
            tmp_path / "tools",
            "gcloud",
            f"""cd {home}
            case "$4" in
            scp) cp "$5" "${{6#*:}}" ;;
            ssh) for word; do case "$word" in --command=*) bash -c "${{word#*=}}" ;; esac; done ;;
            esac
            """,
        )
        return home

    def start(self, launch, checkout, *arguments, **variables):
        script = checkout / "experiments/launch/tpu_vm.sh"
        return launch(None, *arguments, path=script, cwd=checkout, **variables)

    def test_the_commit_arrives_is_installed_and_runs(self, launch, checkout, worker):
        for number in range(2):  # the second time it is an update
            (checkout / "news").write_text(f"change {number}")
            self.commit(checkout)
            done, calls = self.start(launch, checkout, *ARGUMENTS, **self.VM)
            assert done.returncode == 0, done.stderr
            install, pip, run = calls
            assert install == ["install.sh", ".venv", "samples"]
            assert pip == ["pip", "install", "--quiet", "jax[tpu]==9.9"]
            binary = ["python", "-m", "experiments.train", "--distributed=auto"]
            assert run == [*binary, *ARGUMENTS]
            heads = [
                subprocess.run(
                    ["git", "rev-parse", "HEAD"], cwd=f, capture_output=True, check=True
                ).stdout
                for f in (checkout, worker / "zoo-jax")
            ]
            assert heads[0] == heads[1]

    def test_a_step_that_fails_stops_the_rest(self, launch, checkout, worker):
        make_tool(worker, "python", LOG + "exit 3\n")
        done, calls = self.start(launch, checkout, *ARGUMENTS, **self.VM)
        assert done.returncode == 3
        assert not any("experiments.train" in call for call in calls)

    def test_uncommitted_changes_would_not_travel(self, launch, checkout):
        with (checkout / "constraints/install.sh").open("a") as f:
            f.write("# changed\n")
        done, calls = self.start(launch, checkout, *ARGUMENTS, **self.VM)
        assert (done.returncode, calls) == (2, [])
        assert "uncommitted changes" in done.stderr

    def test_name_and_zone_are_needed(self, launch, checkout):
        done, _ = self.start(launch, checkout, *ARGUMENTS, TPU="", ZONE="")
        assert done.returncode == 2
        assert "TPU=NAME ZONE=ZONE" in done.stderr

    def test_dry_run_calls_nothing(self, launch, checkout, tmp_path):
        make_tool(tmp_path / "tools", "gcloud", LOG)
        done, calls = self.start(
            launch, checkout, *ARGUMENTS, **self.VM, DRY_RUN="1", PROJECT="mine"
        )
        assert (done.returncode, calls) == (0, [])
        assert done.stdout.count("gcloud compute tpus tpu-vm") == 3
        assert done.stdout.count("--project=mine") == 3
