"""What the binaries share: flags, the config flag, errors as one line, set-up of devices."""

import importlib.util
import logging as std_logging
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from zoo_jax.core import registry
from zoo_jax.core.config import flatten
from zoo_jax.core.errors import ConfigError, ZooError, closest

USER_ERROR = 2
CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"


def define_config_flag(required: bool = True):
    """Defines ``--config=experiments/configs/<method>/<file>.py:argument``."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "The experiment: a file below experiments/configs, with its argument after a colon."
        " --config.section.key=value changes one key.",
        lock_config=True,
    )
    if required:
        flags.mark_flag_as_required("config")
    return holder


def define_run_flags() -> None:
    """Defines the flags of binaries that own a workdir and devices."""
    flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes it.")
    flags.mark_flag_as_required("workdir")
    flags.DEFINE_bool(
        "allow_config_change",
        False,
        "Go on in a workdir that was started with another config.",
    )
    flags.DEFINE_enum(
        "distributed",
        "none",
        ["none", "auto", "explicit"],
        "How to find the other processes: 'auto' reads SLURM, GKE, Cloud TPU or Open MPI;"
        " 'explicit' takes the three flags below or ZOO_COORDINATOR, ZOO_NUM_PROCESSES and"
        " ZOO_PROCESS_ID.",
    )
    flags.DEFINE_string("coordinator", None, "host:port of process 0.")
    flags.DEFINE_integer("num_processes", None, "How many processes take part.")
    flags.DEFINE_integer("process_id", None, "The number of this one, from 0.")


def config_name() -> str:
    """The config file of ``--config`` without its argument."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def run_main(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a binary: a user's mistake is one line and exit code 2, never a traceback."""
    # Compiled programs are kept between runs, unless the environment says where or how.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        app.run(_guarded(main), flags_parser=_parse)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _parse(argv: Sequence[str]) -> list[str]:
    for argument in argv:
        if argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1].partition(":")[0]
            if not pathlib.Path(path).is_file():
                _fail(f"no config file {path!r}: see experiments/configs")
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        _fail(_unknown_flag(error))
    except (flags.Error, ZooError) as error:
        missing = re.match(r"flag --(\w+)=None: .* other than None", str(error))
        if missing:
            name = missing[1]
            _fail(f"--{name} is required: {flags.FLAGS[name].help}")
        _fail(str(error).strip().splitlines()[0])
    except (AttributeError, KeyError) as error:
        # ml_collections: an override names a key that the locked config does not have.
        _fail(_unknown_key(argv, error))
    except (TypeError, ValueError) as error:
        _fail(f"a --config.* override has the wrong type: {str(error).splitlines()[0]}")
    raise AssertionError("unreachable")


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    name = error.flagname
    if name.startswith("config."):
        return _unknown_key([f"--{name}"], error)
    known = [n for n in flags.FLAGS if not n.startswith("config.")]
    return f"unknown flag --{name}: {closest(name, known)}"


def _unknown_key(argv: Sequence[str], error: Exception) -> str:
    """Which ``--config.a.b=...`` names a key that the config does not have."""
    known = list(flatten(_given_config(argv)))
    sections = {k.rsplit(".", i)[0] for k in known for i in range(k.count(".") + 1)}
    for argument in argv:
        name = argument.split("=", 1)[0].lstrip("-").removeprefix("config.")
        if argument.startswith(("--config.", "-config.")) and name not in sections:
            return f"unknown config key {name!r}: {closest(name, known)}"
    return f"cannot apply the config overrides: {' '.join(str(error).split())}"


def _given_config(argv: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of the command line without its overrides; empty if it cannot be told."""
    for argument in argv:
        if argument.startswith(("--config=", "-config=")):
            path, _, arg = argument.split("=", 1)[1].partition(":")
            spec = importlib.util.spec_from_file_location("given_config", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.get_config(arg)
    return ml_collections.ConfigDict()


def _guarded(main: Callable[[Sequence[str]], int | None]) -> Callable:
    def guarded(argv: Sequence[str]) -> int | None:
        from zoo_jax.train.preempt import Interrupted

        _log_around_the_bar()
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        try:
            return main(argv)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            sys.exit(128 + stop.signum)
        except ZooError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno is None:
                raise
            where = f" {error.filename!r}" if error.filename else ""
            _fail(f"{error.strerror}{where}")

    return guarded


class _AroundTheBar(std_logging.Handler):
    """Prints log lines above a progress bar instead of into it."""

    def emit(self, record: std_logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _log_around_the_bar() -> None:
    root, handler = std_logging.getLogger(), _AroundTheBar()
    handler.setFormatter(
        std_logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    )
    root.handlers[:] = [handler]
    logging.set_verbosity(logging.INFO)
    # Jax tells at this level which accelerators the machine does not have.
    std_logging.getLogger("jax").setLevel(std_logging.WARNING)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USER_ERROR)


def start_devices(config: ml_collections.ConfigDict):
    """Joins the other processes if flags say so, and builds the mesh."""
    from zoo_jax.train.mesh import initialize_distributed, make_mesh

    args = flags.FLAGS
    initialize_distributed(
        args.distributed,
        coordinator=args.coordinator,
        num_processes=args.num_processes,
        process_id=args.process_id,
    )
    return make_mesh(config.get("mesh", {}).get("devices", 0))


def load_method(config: ml_collections.ConfigDict):
    """The method module of a config, after checking the config's top-level keys."""
    from zoo_jax.train.settings import LOOP_KEYS

    if not config.get("task"):
        raise ConfigError("the config has no 'task': name a method there")
    method = registry.get(config.task)
    known = LOOP_KEYS | set(method.CONFIG_KEYS)
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown config key {key!r}: {closest(key, known)}")
    return method
