"""`python -m mulo.conformance`: which optimizer a trace is of, and the verdict."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mulo.conformance import celo, small_fc, velo
from mulo.conformance.comparing import Deviation, report
from mulo.conformance.traces import Trace, read_trace
from mulo.errors import InputError

_Deviations = Callable[[Trace], Iterator[Deviation]]

# Name -> arrays by which a trace of it is known, and its comparisons.
TRACES: Mapping[str, tuple[tuple[str, ...], _Deviations]] = {
    "small_fc_lopt": (
        ("meta/hidden_size", "theta/nn/~/w0", "theta/momentum_decays", "acc_last/iteration"),
        small_fc.deviations,
    ),
    "VeLO": (("meta/param_inits", "debug/lr_mult", "acc_last/lstm_cell"), velo.deviations),
    "Celo": (("noisy/lr_mult", "theta/ff_mod_stack/~/b0", "quad/last/lstm_cell"), celo.celo_deviations),
    "Celo-Adam": (("noisy/lr_mult", "theta/rnn_params/step_size/w"), celo.celo_adam_deviations),
    "Celo2": (("theta/ff_mod_stack/~/b0", "celo2base/params/vec"), celo.celo2_deviations),
}


def deviations(trace: Trace, where: str) -> Iterator[Deviation]:
    """Every comparison that the trace allows.

    Raises:
      InputError: not a trace of an optimizer that mulo has; `where` names the file.
    """
    for needed, compare_all in TRACES.values():
        if all(key in trace.arrays for key in needed):
            return compare_all(trace)
    raise InputError(
        f"{where} is not a trace of {', '.join(TRACES)}: small_fc_lopt, for one, has an array "
        f"{TRACES['small_fc_lopt'][0][0]!r}. Wanted a file like tests/golden/sp_small_fc_lopt_h4.npz."
    )


def main(argv: list[str] | None = None) -> int:
    """Prints the deviations; returns 0, 1 where a limit is exceeded, 2 where the file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m mulo.conformance",
        description="Replays a recorded trace of a reference implementation and compares.",
    )
    parser.add_argument("file", type=Path, help="trace of a reference implementation (.npz)")
    arguments = parser.parse_args(argv)
    try:
        results = list(deviations(read_trace(arguments.file), str(arguments.file)))
    except InputError as error:
        print(f"mulo.conformance: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(report(results))  # noqa: T201
    return 0 if all(result.within for result in results) else 1
