"""mulo-meta-train: flags -> configuration -> driver. Wrong flags are answered before JAX is imported."""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_tasks.command_line import Parser, check_folder, unless_pipe_is_closed
from eval_tasks.workers.flags import CLUSTER_FLAGS, add_worker_flags, given_worker_flags
from meta_train.commands import COMMANDS
from meta_train.config import MetaTrainConfig, field_kind
from meta_train.config_file import read_config_file, to_toml
from meta_train.errors import StoppedError
from meta_train.executors.clusters import open_cluster
from meta_train.executors.options import WorkerOptions
from meta_train.presets import FIRST_PRESETS, PRESETS
from meta_train.run_directory import RunDirectory, refuse_existing
from mulo.errors import InputError
from mulo.names import lookup
from mulo.printing import printable

_PROGRAM = "mulo-meta-train"
_EPILOG = """\
examples:
  mulo-meta-train --preset quick --seed 0 --out runs/a   meta-train on two CPU cores, in minutes
  mulo-meta-train --resume runs/a                        go on with a run that was stopped
  mulo-meta-train --config my.toml --seed 1 --out runs/b the configuration of a file, with changes
  mulo-meta-train --optimizer muvelo --out runs/v        from preset muvelo-quick; celo: celo-quick, in SP
  mulo-meta-train --preset paper-s --pairs-per-slot 1 --gpus 8 --out runs/c
                                                         one worker on each GPU; the same theta as with one
  mulo-meta-train status runs/a                          where a run stands; watch: the same, kept up to date
  mulo-meta-train config --preset quick                  all fields, as a file for --config
  mulo-meta-train digest runs/a                          SHA-256 of the run's theta
"""


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        description="Meta-trains a learned optimizer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    first = ", ".join(f"{optimizer} {preset}" for optimizer, preset in FIRST_PRESETS.items())
    parser.add_argument(
        "--preset", help=f"where to start from: {', '.join(PRESETS)} (default, by --optimizer: {first})"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of fields; may name a preset")
    parser.add_argument(
        "--out", type=Path, help="new run directory (default: runs/PRESET-TIME or runs/FILE-TIME)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run directory")
    parser.add_argument("--checkpoint-interval", type=int, default=100, help="meta-steps between two saves")
    parser.add_argument("--keep-checkpoints", type=int, default=2, help="newest checkpoints that are kept")
    parser.add_argument("--tensorboard", action="store_true", help="write curves for TensorBoard too")
    workers = parser.add_argument_group("workers (they never decide theta; may change at --resume)")
    add_worker_flags(workers, _WORKER_FLAGS)
    group = parser.add_argument_group(
        "configuration (default: the preset's; of another --optimizer: in brackets)"
    )
    for field in dataclasses.fields(MetaTrainConfig):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            default=argparse.SUPPRESS,
            help=field.metadata["help"],
            **_argument_type(field),
        )
    return parser


_WORKER_FLAGS: Mapping[str, tuple[type, str]] = {
    **CLUSTER_FLAGS,
    "worker-timeout": (float, "seconds after which a silent worker is replaced; more where calls take long"),
    "snapshot-interval": (int, "meta-steps between two snapshots of a slot: the most that is done again"),
}


def _worker_options(arguments: argparse.Namespace) -> WorkerOptions | None:
    given = given_worker_flags(arguments, _WORKER_FLAGS)
    return WorkerOptions(**given) if given else None


def _argument_type(field: dataclasses.Field) -> dict[str, Any]:
    default = field.default
    if isinstance(default, tuple):
        weights = field.name == "task_weights"
        nargs = "+" if default else "*"  # what may be empty can be emptied
        return {"nargs": nargs, "type": float if weights else str, "metavar": "X" if weights else "TASK"}
    kind = field_kind(field)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}


def _make_config(arguments: argparse.Namespace) -> tuple[str, MetaTrainConfig]:
    """The name of the preset that it starts from, and the configuration: preset, then file, then flags."""
    preset, changes = None, {}
    if arguments.config is not None:
        preset, changes = read_config_file(arguments.config)
    changes |= {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(MetaTrainConfig)
        if hasattr(arguments, field.name)
    }
    preset = arguments.preset or preset
    if preset is None:
        preset = lookup(FIRST_PRESETS, changes.get("optimizer", "small_fc"), "learned optimizer")
    base = lookup(PRESETS, preset, "preset")
    if "tasks" in changes:  # the preset's validation tasks go with the preset's tasks
        changes.setdefault("validation_tasks", ())
    lists = {name: tuple(value) for name, value in changes.items() if isinstance(value, list)}
    return preset, base.replace(**{**changes, **lists})


def _run(argv: Sequence[str]) -> int:
    arguments = _make_parser().parse_args(argv)
    for flag in ("checkpoint_interval", "keep_checkpoints"):
        if getattr(arguments, flag) < 1:
            flag_name = flag.replace("_", "-")
            raise InputError(f"--{flag_name} is {getattr(arguments, flag)}; wanted at least 1.")
    if arguments.resume is not None:
        _check_resume(arguments)
        outcome = _train(arguments, None, arguments.resume)
    else:
        preset, config = _make_config(arguments)
        name = preset if arguments.config is None else arguments.config.stem
        out = arguments.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        check_folder(out, wanted="a folder that is not there yet")
        refuse_existing(out)
        outcome = _train(arguments, config, out)
    return 0 if outcome.signal_number is None else 128 + outcome.signal_number


def _check_resume(arguments: argparse.Namespace) -> None:
    given = [f.name for f in dataclasses.fields(MetaTrainConfig) if hasattr(arguments, f.name)]
    given += [name for name in ("preset", "config", "out") if getattr(arguments, name) is not None]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} cannot be changed with --resume: a run goes on with the "
            "configuration that it was started with. Leave it out, or start a new run with --out."
        )
    RunDirectory.open(arguments.resume)


def _options(arguments: argparse.Namespace, workers: WorkerOptions | None) -> Any:
    from meta_train.driver import RunOptions

    return RunOptions(
        checkpoint_interval=arguments.checkpoint_interval,
        keep_checkpoints=arguments.keep_checkpoints,
        tensorboard=arguments.tensorboard,
        workers=workers,
    )


def _train(arguments: argparse.Namespace, config: MetaTrainConfig | None, out: Path) -> Any:
    """Begins a run, or goes on with one where there is no configuration."""
    workers = _worker_options(arguments)
    if workers is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # of the driver; GPUs are the workers'
    with open_cluster(workers) as cluster:
        from meta_train.driver import resume, run

        options = _options(arguments, workers)
        return resume(out, options, cluster) if config is None else run(config, out, options, cluster)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0; 1 where a run had to stop (meta-gradients not finite for too long, a full disk, workers lost for
      good); 2 after a mistake in what was given; both said in one line; 128 + n where signal n stopped the
      run, which is saved.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    return unless_pipe_is_closed(lambda: _main(argv))


def _main(argv: list[str]) -> int:
    try:
        if argv[:1] == ["config"]:
            print(to_toml(_make_config(_make_parser().parse_args(argv[1:]))[1]), end="")  # noqa: T201
            return 0
        if argv and not argv[0].startswith("-"):
            return lookup({**COMMANDS, "config": None}, argv[0], "command")(argv[1:])
        return _run(argv)
    except (InputError, StoppedError) as error:
        print(printable(f"{_PROGRAM}: error: {error}"), file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(f"{_PROGRAM}: stopped at once; --resume goes on from the last checkpoint.", file=sys.stderr)  # noqa: T201
        return 130


if __name__ == "__main__":
    sys.exit(main())
