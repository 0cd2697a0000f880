"""The tasks on which recipes for a released optimizer are compared; none is of a suite of `mulo-eval`.

    python -m benchmarks.choose_recipe runs/a runs/b adamw-oracle --out results/choice
    mulo-eval report results/choice

No run sees the examples that suites take validation losses on: a fifth of the training split is held out in
their place. Optimizers are given as to `mulo-eval --optimizer`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.command_line import Parser
from eval_tasks.contenders import make_contenders
from eval_tasks.data import load_data
from eval_tasks.data.source import Source, hold_out
from eval_tasks.evaluation import Advance, Evaluation
from eval_tasks.names import parse_task_name
from eval_tasks.runs import ResultStore
from eval_tasks.suites import Series, Suite
from mulo.errors import InputError
from mulo.names import lookup

TASKS: Mapping[str, tuple[int, int]] = {  # inner steps and batch size
    "mlp-w192-d4_cifar10-8": (500, 128),
    "mlp-w192-d4_digits": (500, 128),
    "mlp-w384-d2_cifar10-8": (500, 128),
    "mlp-w48-d8_cifar10-8": (500, 128),
    "mlp-w48-d4_cifar10-16": (500, 128),
    "convnet-w24-d2_digits": (200, 32),
    "vit-w48-d2-h4_digits": (300, 32),
    "transformer-w48-d1-h4_pydoc-16": (300, 16),
    "rnn-w48-d2_pydoc-16": (300, 16),
    "rnn-w96-d2_pydoc-16": (300, 16),
    "autoencoder-w192-d3_cifar10-8": (500, 64),
    "mlp-w48-d4_cifar10-8": (8000, 128),
    "mlp-w48-d4_digits": (8000, 128),
}


def load_held_out(name: str) -> Source:
    """The training split of a data set, itself split; the validation split is left alone."""
    return hold_out(load_data(name))


def make_suite(tasks: Sequence[str], num_seeds: int) -> Suite:
    """A suite of these tasks, each at its own width alone."""
    series = []
    for task in tasks:
        num_steps, batch_size = lookup(TASKS, task, "task of the choice")
        base = parse_task_name(task)
        one = Series(
            base=base, num_steps=num_steps, batch_size=batch_size, axis="width", values=(base.width,)
        )
        series.append(one)
    return Suite(name="choice", size="cpu", series=tuple(series), num_seeds=num_seeds, num_tuning_seeds=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Adds what is missing to the results; 0."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("optimizers", nargs="+", help="as to mulo-eval --optimizer")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="some of these (default: all)")
    parser.add_argument("--num-seeds", type=int, default=2)
    arguments = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201

    def progress(done: Advance) -> None:
        say(done.words)

    try:
        suite = make_suite(arguments.tasks, arguments.num_seeds)
        contenders = make_contenders(arguments.optimizers)
        with ResultStore(arguments.out, notify=say) as store:
            Evaluation(suite, store, progress, load=load_held_out).evaluate(contenders)
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
