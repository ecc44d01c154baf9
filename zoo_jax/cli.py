"""The ``zoo-jax`` command: using the networks of this project on files.

One function per sub-command, and one per its arguments; `_COMMANDS` lists them. A mistake of
the user is one line on standard error and exit code 2; nothing is ever half-written.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl.flags import argparse_flags
from tqdm import tqdm

from zoo_jax import compress, embed, models, rate, restore, score, search, search_clips
from zoo_jax.core.config import parse_pairs
from zoo_jax.core.errors import ConfigError, WeightsError, ZooError
from zoo_jax.core.files import write_json
from zoo_jax.core.tree import count_parameters, nest

# --- models ---------------------------------------------------------------------------------


def models_command(args: argparse.Namespace) -> dict[str, Any]:
    """Lists the networks; parameters are counted from shapes, nothing is computed."""
    rows = []
    for name in _progress(models.list_models(), "counting"):
        entry = models.get_entry(name)
        shapes = models.abstract_variables(name, models.build_module(name))
        rows.append(
            {
                "name": name,
                "parameters": count_parameters(shapes["params"]),
                "input": list(entry.example),
                "doc": entry.doc,
            }
        )
    width = max(len(row["name"]) for row in rows)
    print(f"{'name':{width}}  {'parameters':>11}  {'input':13}  what it is")
    for row in rows:
        size = "x".join(map(str, row["input"]))
        print(
            f"{row['name']:{width}}  {row['parameters']:>11,}  {size:13}  {row['doc']}"
        )
    return {"models": rows}


# --- convert --------------------------------------------------------------------------------


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax convert``."""
    _add_model(parser)
    parser.add_argument(
        "input",
        metavar="IN",
        help="published .safetensors, .npz or torch file, or a training run",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder")
    parser.add_argument(
        "--force", action="store_true", help="replace OUT if it is a converted model"
    )


def convert_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes a folder with the variables under this project's names."""
    from zoo_jax.convert import match, write_weights

    out = pathlib.Path(args.output).absolute()  # "." has no name to put beside
    _require_free(out, args.force)
    with _stages(3) as stage:
        stage("reading")
        source = models.load_source(args.model, args.input)
        overrides = source.overrides | parse_pairs(args.set)
        module = models.build_module(args.model, **overrides)
        template = models.abstract_variables(args.model, module)
        table = models.source_table(args.model, module, template, source)
        stage("matching")
        found = match(table, source.arrays, template)
        problems = found.problems()
        result = {
            "model": args.model,
            "output": args.output,
            "ok": not problems,
            "matched": [list(pair) for pair in found.matched],
            "ignored": sorted({*found.ignored, *source.skipped}),
            **{
                kind: list(getattr(found, kind))
                for kind in (
                    "copies",
                    "kept",
                    "unmatched",
                    "missing",
                    "misfits",
                    "unfilled",
                )
            },
            "foreign": list(found.foreign),
        }
        if problems:
            _print_match(result)
            if args.json:
                write_json(args.json, result)
            raise WeightsError(
                f"{args.input}: does not fit {args.model}, {args.output} was not written:"
                f" {problems}"
            )
        stage("writing")
        facts = {
            "format": models.FORMAT,
            "model": args.model,
            "overrides": overrides,
        }
        parameters = count_parameters(nest(found.leaves)["params"])
        with _new_folder(out, force=args.force) as folder:
            write_weights(folder / models.VARIABLES_FILE, found.leaves, facts)
            origin = {"source": _origin(args.input), "parameters": parameters}
            write_json(folder / models.MODEL_FILE, facts | origin)
    _print_match(result)
    print(f"wrote {args.output}: {args.model}, {parameters:,} parameters")
    return result | {"parameters": parameters}


def _print_match(result: dict[str, Any]) -> None:
    for key, target in result["matched"]:
        print(f"  {key} -> {target}")
    for kind, meaning in (
        ("ignored", "are not used"),
        ("copies", "repeat another key"),
        ("kept", "are absent and optional"),
        ("unmatched", "in the file have no place in the network"),
        ("missing", "are missing in the file"),
        ("misfits", "do not fit"),
        ("unfilled", "leaves of the network have no key"),
        ("foreign", "leaves of the key table are not in the network"),
    ):
        if result[kind]:
            print(f"{len(result[kind])} {meaning}:", *result[kind], sep="\n  ")
    print(f"{len(result['matched'])} matched")


def _origin(path: str) -> dict[str, str]:
    """Name and, of a file, checksum of where weights came from."""
    from zoo_jax.convert.tf_checkpoint import index_of

    path = pathlib.Path(path)
    if path.is_dir():
        return {"name": path.resolve().name}
    # The index of a TensorFlow checkpoint holds checksums of everything else.
    path = index_of(path) or path
    with path.open("rb") as f:
        return {
            "name": path.name,
            "sha256": hashlib.file_digest(f, "sha256").hexdigest(),
        }


# --- export ---------------------------------------------------------------------------------


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax export``."""
    _add_model(parser)
    parser.add_argument(
        "--weights", required=True, metavar="W", help="file or folder, as for convert"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.stablehlo|OUT.onnx"
    )
    parser.add_argument(
        "--format",
        metavar="F",
        help="stablehlo or onnx; default: by the suffix of OUT",
    )
    parser.add_argument(
        "--batch", default="symbolic", metavar="N|symbolic", help="default: symbolic"
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="default: symbolic in StableHLO for networks that take any size, else as listed by"
        " zoo-jax models",
    )
    parser.add_argument(
        "--platforms",
        metavar="P,...",
        help="of cpu, cuda, rocm, tpu, for StableHLO; this machine's is always among them",
    )


def export_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes one self-contained file, checked against the model first."""
    from zoo_jax.export import (
        export_model,
    )  # imports much that other commands do without

    if args.batch != "symbolic" and not args.batch.isdecimal():
        raise ConfigError(f"--batch is a number or 'symbolic', not {args.batch!r}")
    if args.size and not re.fullmatch(r"\d+x\d+", args.size):
        raise ConfigError(f"--size is HxW, e.g. 720x1280, not {args.size!r}")
    size = tuple(map(int, args.size.split("x"))) if args.size else None
    platforms = args.platforms.split(",") if args.platforms else None
    with _stages(2) as stage:
        stage("loading")
        model = models.create_model(
            args.model, weights=args.weights, **parse_pairs(args.set)
        )
        stage("exporting and checking")
        facts = export_model(
            model,
            args.output,
            format=args.format,
            size=size,
            batch=None if args.batch == "symbolic" else int(args.batch),
            platforms=platforms,
        )
    shape = " x ".join(map(str, facts["inputs"][0]["shape"]))
    runs = (
        f"ONNX opset {facts['opset']}"
        if facts["format"] == "onnx"
        else f"for {', '.join(facts['platforms'])}"
    )
    print(
        f"wrote {args.output}: {args.model}, input {shape}, {facts['bytes']:,} bytes,"
        f" {runs}; agrees with the model within {facts['relative_difference']:.1e}"
    )
    return facts | {"output": args.output}


# --- what the sub-commands share ------------------------------------------------------------


class _Command(NamedTuple):
    """One sub-command."""

    run: Callable[[argparse.Namespace], dict[str, Any]]  # returns the --json result
    arguments: Callable[[argparse.ArgumentParser], None]
    summary: str
    teach: str  # text and command lines at the end of --help


_COMMANDS: dict[str, _Command] = {
    "models": _Command(
        models_command,
        lambda parser: None,
        "list the networks",
        """\
examples:
  zoo-jax models
  zoo-jax models --json models.json

In Python: zoo_jax.create_model("deep_k_means/digits_cnn", weights=...)""",
    ),
    "convert": _Command(
        convert_command,
        convert_arguments,
        "published weights or a training run -> a folder of this project",
        """\
Prints every key of the file with the place that it gets, and fails if a key on either
side is left over. Torch files need: pip install "zoo-jax[torch]". No code in a file is run.

examples:
  zoo-jax convert --model deep_k_means/wide_resnet_16_4 model.pth.tar -o wrn
  zoo-jax convert --model deep_k_means/wide_resnet_16_4 --set depth=22 wrn22.npz -o wrn22
  zoo-jax convert --model deep_k_means/digits_cnn runs/digits -o digits

In Python: zoo_jax.create_model("deep_k_means/digits_cnn", weights="digits")""",
    ),
    "compress": _Command(
        compress.compress_command,
        compress.compress_arguments,
        "any network's weights -> one small file, by a byte budget",
        """\
Kernels become codebooks and entropy-coded indices (Deep k-Means without re-training); all
else is stored exactly. With a budget, samples and clusters of each kernel are chosen for the
least sum of relative squared errors: no data is looked at, so measure accuracy afterwards.
Embeddings, float64 arrays and whatever is not named weight (torch) or kernel (flax) stay exact.
With --finetune CONFIG the values that weights share are trained afterwards, by the task, data
and number of steps of an experiment config, and its metrics are shown before and after. The
file keeps its size; it holds the network that the config names, under this project's names.

examples:
  zoo-jax compress resnet20.th -o resnet20.zdkm --target-ratio 10
  zoo-jax compress runs/digits -o digits.zdkm --target-bytes 50000 --json digits.json
  zoo-jax compress resnet20.th -o resnet20.zdkm --target-ratio 16 \\
      --finetune experiments/configs/deep_k_means/cifar10_resnet.py
  zoo-jax compress wrn.safetensors -o wrn.zdkm --spec layers.json
  with layers.json: [{"path": "conv1.weight"}, {"path": "*conv*.weight",
                     "num_clusters": 30, "samples": "row", "core": 0.4}]

In Python: zoo_jax.create_model("deep_k_means/digits_cnn", weights="digits.zdkm")""",
    ),
    "decompress": _Command(
        compress.decompress_command,
        compress.decompress_arguments,
        "a compressed network -> a .safetensors file",
        """\
Keys, shapes, dtypes and layout are those that were compressed. Arrays that were not clustered
are the same bit for bit; clustered ones hold the shared values.

examples:
  zoo-jax decompress resnet20.zdkm -o resnet20.safetensors""",
    ),
    "export": _Command(
        export_command,
        export_arguments,
        "a network with its weights -> one StableHLO or ONNX file",
        """\
The file holds the weights and needs neither this package nor flax to run. StableHLO:
  jax.export.deserialize(bytearray(open("digits.stablehlo", "rb").read())).call(x)
It is loaded again and compared with the model before it appears. Shapes and dtypes stand in
OUT.json beside it. Needs: pip install "zoo-jax[export]", for ONNX "zoo-jax[onnx]".

The batch size stays open. So does the image size in StableHLO where the network takes any:
an input of b x 32*h x 32*w x 3 takes every multiple of 32. An ONNX file has one image size.

examples:
  zoo-jax export --model deep_k_means/digits_cnn --weights digits -o digits.stablehlo
  zoo-jax export --model deep_k_means/digits_cnn --weights digits.npz --batch 8 \\
      --platforms cpu,cuda,tpu -o digits_b8.stablehlo
  zoo-jax export --model deblurgan_v2/fpn_mobilenet --weights fpn_mobilenet.h5 \\
      --size 736x1280 -o deblur.onnx""",
    ),
    "rate": _Command(
        rate.rate_command,
        rate.rate_arguments,
        "a page on which people judge which of two pictures is better",
        """\
The page is one file and needs no server. It shows pairs of the same name from two folders in an
order of each rater's own, without saying which is which, asks for a rating from 1 (left much
better) to 5, measures reaction times, slips in identical pairs, and saves a JSON file.

examples:
  zoo-jax rate --a photos --b photos_deblurred --names raw,deblurred -o rate.html
  zoo-jax score --ratings ratings_ann.json --ratings ratings_bob.json""",
    ),
    "restore": _Command(
        restore.restore_command,
        lambda parser: (_add_model(parser), restore.restore_arguments(parser)),
        "deblur or denoise your pictures and videos",
        """\
Outputs have the format of their inputs; pictures keep depth, transparency, colour profile and
EXIF data, videos keep sound and the time of every frame. In a folder, a bad file stops nobody
else (exit code 1), and the same command goes on after a kill: finished outputs are kept. Where
weights are to be had, and what padding and tiles change: see docs/restore.md.

examples:
  zoo-jax restore --model deblurgan_v2/fpn_mobilenet --weights fpn_mobilenet.h5 \\
      blurred.jpg -o sharp.jpg
  zoo-jax restore --model deblurgan_v2/fpn_inception --weights fpn_inception.h5 \\
      photos/ clip.mp4 -o restored/ --compare
  zoo-jax restore --model u_said/dncnn --weights dncnn.pth 'scans/*.png' -o clean/ --tile 512

In Python: zoo_jax.restorer.Restorer(zoo_jax.create_model(...), tile=512)(images)""",
    ),
    "score": _Command(
        score.score_command,
        score.score_arguments,
        "does an enhancement help recognition? scores, a page, a leaderboard",
        """\
Every restorer runs before the same fixed recognisers; M1, M2 and LRAP are those of UG2. A delta
is the difference to the pictures as they are, its interval is drawn over videos.

  --data        <class>/<picture>, <class>/<video>/<picture>, or flat names as UG2 has them
  --class-map   UG2ImageNet.txt, or a table of your own: class,members with rows cup,504 968;
                without it, classes are named by their WordNet ids
  --restorers   an enhancer (clahe, unsharp:amount=2, srnet:srnet.pth), or a network of
                zoo-jax models (u_said/dncnn:USAID.pth); ALIAS=... names it anew
  --recognisers vgg16, vgg19, resnet50, inception_v3, efficientnet_lite0, squeezenet, each with
                :WEIGHTS, or tflite:FILE

A broken picture is left out of every arm and listed at the end (exit code 1). With --ratings,
judgements by people are weighed by reaction time. See docs/score.md.

examples:
  zoo-jax score --data photos --class-map classes.csv --restorers clahe,unsharp \\
      --recognisers tflite:mobilenet_v2.tflite -o scores/
  zoo-jax score --data SampleInput --labels sampleInput_Eqs.txt --class-map UG2ImageNet.txt \\
      --recognisers vgg16:vgg16_keras.npz --variant keras --preprocessing official
  zoo-jax score --data photos --class-map classes.csv --entry ours=photos_enhanced \\
      --recognisers tflite:mobilenet_v2.tflite --leaderboard results.csv --note 'our lab'
  zoo-jax score --ratings ann.json --ratings bob.json""",
    ),
    "embed": _Command(
        embed.embed_command,
        embed.embed_arguments,
        "embeddings of your videos, sounds and sentences",
        """\
One array per space: video_audio and audio, video_text and text; compare by cosine. A bad file
stops nobody else (exit code 1), and the same command goes on after a kill: what has been
embedded and has not changed is kept. See docs/embed.md.

examples:
  zoo-jax embed --model gradient_harmonization/vatt_medium --weights ut_fac_medium/ckpt-500000 \\
      holiday/ song.flac -o holiday.safetensors
  zoo-jax embed --model gradient_harmonization/vatt --weights runs/mine --vocabulary words.txt \\
      --text 'a dog barks' sentences.txt -o sentences.npz

In Python: zoo_jax.embed.Embedder(zoo_jax.create_model(...), vocabulary).file("a.mp4")""",
    ),
    "search-clips": _Command(
        search_clips.search_clips_command,
        search_clips.search_clips_arguments,
        "the clips of a folder that go with a sentence or a sound",
        """\
Embeddings of the folder are kept in a hidden file there (or in --index), so that a second search
embeds only what is new. See docs/embed.md.

examples:
  zoo-jax search-clips --model gradient_harmonization/vatt --weights runs/mine \\
      --vocabulary words.txt --text 'a rabbit yawns' clips/
  zoo-jax search-clips --model gradient_harmonization/vatt_medium --weights ut_fac_medium/ckpt-500000 \\
      --sound bark.wav clips/ --top 3 --json found.json""",
    ),
    "search": _Command(
        search.search_command,
        search.search_arguments,
        "the best architectures of a space by few queries: a table, or your trainings",
        """\
Against a table, searches are repeated and averaged; columns are the judged value of the best
queried or predicted (best test, the published rule), of the best by what the search was told
(honest), and of the predicted best (predicted).

With --command, every architecture is trained by your command, which prints its value last:
  {config}  path of a JSON file with the architecture   {json}  the same as text
  {trial}   its number from 0 on                        {slot}  0 .. parallel - 1, e.g. a GPU
The value is the last number of the last line printed, or of a line {"value": NUMBER}. All that
happens is kept in DIR/trials.jsonl: after a kill, the same command goes on. See docs/search.md.

examples:
  zoo-jax search --space nas_bench_graph --dataset cora --budget 50 --repeats 20
  zoo-jax search --space nas_bench_201 --table nas_bench_201.npz --dataset cifar100 \\
      --budget 100 --repeats 100 --preset best --json cifar100.json --figure cifar100.png
  zoo-jax search --space my_space.py --command './train.sh {config}' --budget 50 \\
      --batch 8 --parallel 4 --timeout 3600 -o runs/search
  zoo-jax search --space my_space.py --command 'CUDA_VISIBLE_DEVICES={slot} python train.py \\
      --config {config} | tail -n 1' --shell --budget 50 --parallel 2 -o runs/gpus
  with my_space.py: def get_space(): return {"width": [16, 32, 64], "act": ["relu", "gelu"],
                                             "depth": [2, 3, 4, 5], "lr": [1e-3, 1e-2]}""",
    ),
}


class _Parser(argparse_flags.ArgumentParser):
    """One-line errors; help texts keep their line breaks."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            conflict_handler="resolve",  # a library's absl flag may have one of our names
            **kwargs,
        )

    def error(self, message: str) -> None:
        """Prints one line and leaves with exit code 2."""
        self.exit(2, f"zoo-jax: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="zoo-jax",
        description="Networks and methods of the zoo_jax papers, on your files.",
        epilog="zoo-jax COMMAND --help explains a command and shows examples.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=command.teach,
        )
        command.arguments(sub)
        sub.add_argument("--json", metavar="FILE", help="also write the result as JSON")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code: 0, 2 for a mendable error, 130 for ^C.

    A command may say another one with ``exit_code`` in its result.
    """
    try:
        args = make_parser().parse_args(argv)
        result = args.run(args)
        if args.json:
            write_json(args.json, result)
        sys.stdout.flush()
        return result.get("exit_code", 0)
    except SystemExit as stop:  # argparse: --help, or a mistake that it has explained
        return stop.code or 0
    except KeyboardInterrupt:
        print("zoo-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `zoo-jax models | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ZooError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_explain(error))


def _fail(message: str) -> int:
    print(f"zoo-jax: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _explain(error: OSError) -> str:
    hints = {
        errno.ENOSPC: "free some space or choose another place",
        errno.EACCES: "choose a place that you may read and write",
        errno.EPERM: "choose a place that you may read and write",
        errno.EROFS: "choose a place that can be written",
        errno.ENOENT: "check the path",
    }
    place = f"{error.filename}: " if error.filename else ""
    hint = hints.get(error.errno)
    return f"{place}{error.strerror or error}" + (f": {hint}" if hint else "")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="see zoo-jax models"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="argument of the network's builder, e.g. num_classes=100; may be repeated",
    )


def _progress(items: Sequence[Any], description: str) -> tqdm:
    # disable=None: a bar on a terminal, silence in a log file
    return tqdm(items, description, leave=False, disable=None)


@contextlib.contextmanager
def _stages(count: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over stages; what it yields is called at the start of each, with a name."""
    with tqdm(total=count, leave=False, disable=None) as bar:
        started = 0

        def stage(name: str) -> None:
            nonlocal started
            bar.update(min(started, 1))  # the one before is done
            bar.set_description(name)
            started += 1

        yield stage


def _require_free(path: pathlib.Path, force: bool) -> None:
    """Refuses to replace a file, or a folder that this command has not written."""
    if path.exists() and not path.is_dir():
        raise ZooError(f"{path}: is a file; choose another -o")
    if path.is_dir() and any(path.iterdir()):
        if not (path / models.MODEL_FILE).is_file():
            raise ZooError(
                f"{path}: is not empty and no converted model; choose another -o"
            )
        if not force:
            raise ZooError(
                f"{path}: exists; choose another -o, or replace it with --force"
            )


@contextlib.contextmanager
def _new_folder(path: pathlib.Path, *, force: bool) -> Iterator[pathlib.Path]:
    """A folder that appears under `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new, old = staging / "new", staging / "old"
        new.mkdir()  # with the permissions of an ordinary folder, unlike mkdtemp's
        yield new
        _require_free(path, force)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
