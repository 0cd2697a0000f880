"""The part of a report that says how it was measured."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval_tasks.aggregates import CONFIDENCE, NUM_RESAMPLES
from eval_tasks.measures import Part
from eval_tasks.report.markup import Markup, element, join
from eval_tasks.result_lines import SCHEMA, Record
from eval_tasks.results import Results

_MEASURES = {
    "Final training loss": """
        Mean over the last 1 % of the steps (at least one) of the loss on each step's batch; then the mean
        over seeds. ± is one standard error of that mean.""",
    "Validation loss, accuracy": "Once, after the last step, on the data set's validation examples.",
    "Mean loss": "Over all steps: the area under the training curve, divided by the number of steps.",
    "Score": """
        (guessing − loss) / (guessing − loss of the reference), where guessing is the loss of a network that
        says the same whatever it is shown, and the reference's loss is its mean over seeds. 0 is guessing, 1
        the reference; a run that is worse than guessing, or diverged, has 0. There is no upper limit. The
        validation score takes validation losses in the same way.""",
    "Speed-up": """
        In steps, not seconds: s/t, where t is the step in which a run's smoothed training curve first
        reaches the reference's mean final loss, and s the same of the reference's own runs, their mean. A run
        that never does has s/T, with s the step in which the reference reaches that run's final loss and T
        the number of steps: below 1, or 1 where it does not either. A diverged run has 0. Curves are smoothed
        by a centred mean over a twentieth of their stored points; mulo-eval keeps means over at most 200
        stretches. There are no scores and speed-ups where the reference is not 5 % below guessing.""",
    "Baselines": """
        Their learning rate is tuned and nothing else (weight decay is fixed), over a grid of factors of
        two with the same number of trials for each, on other random keys than those of the results. NAME is
        tuned at the base of a series and used at all its values; NAME-oracle is tuned anew at each, a bound
        and not a rival: it does not compete for tasks won. Learning rates are constant, but for adamw-cosine
        and muadamw-cosine.
        Of schedule-free AdamW the training loss is that of the point where gradients are taken, the
        validation loss that of its average.""",
    "Over tasks": """
        The interquartile mean of the tasks' means over seeds: the lowest and the highest quarter of the tasks
        (rounded down; with fewer than four, none) do not count. So an optimizer that fails on a few tasks
        only can score well: read it beside the share of runs that diverged.""",
    "Intervals": f"""
        {100 * CONFIDENCE:.0f} %, percentile bootstrap, stratified: each task's seeds are resampled for
        themselves, {NUM_RESAMPLES:,} times. They speak of other seeds, not of other tasks. The reference's
        loss is held fixed; its own spread is the interval in its own row. From n seeds such intervals are
        too narrow, by a factor of about √((n − 1)/n): 0.82 for three, 0.89 for five.""",
    "Step time and state": """
        Seconds of an inner step, compilation and validation left out, a third of a call that makes three
        runs at once; and bytes of the optimizer's state, as the results
        files give them, over those of the Adam baseline named above the table, task by task.""",
}


def method_section(results: Results, parts: Sequence[Part]) -> Markup:
    """How the numbers came about: definitions, settings, versions, hardware, hashes."""
    runs = [run for row in results.cells.values() for cell in row.values() for run in cell]
    return element(
        "section",
        element("h2", "How this was measured"),
        _facts((name, " ".join(text.split())) for name, text in _MEASURES.items()),
        element("h3", "Runs"),
        _facts(_run_facts(runs, results, parts)),
        element("h3", "Versions and hardware"),
        _facts(_version_facts(runs)),
        element("h3", "Files"),
        *(
            element(
                "p",
                element("code", file.path),
                f": {file.num_used} of {file.num_lines} lines used; SHA-256 ",
                element("code", file.digest),
            )
            for file in results.files
        ),
        element("h3", "Optimizers"),
        *(_optimizer_details(label, runs) for label in results.labels),
        id="method",
    )


def _facts(facts: Iterable[tuple[str, str]]) -> Markup:
    return element("dl", *(join([element("dt", name), element("dd", text)]) for name, text in facts))


def _run_facts(runs: Sequence[Record], results: Results, parts: Sequence[Part]) -> list[tuple[str, str]]:
    tuned_steps = sum(cost.num_steps for part in parts for cost in part.tuning.values())
    tuned_runs = sum(cost.num_runs for part in parts for cost in part.tuning.values())
    own = {run["key"]: run for run in runs}
    minutes = sum(run["wall_seconds"] for run in [*own.values(), *_unique(results.tuning)]) / 60
    return [
        ("Evaluation", f"{len(own):,} runs, {sum(run['num_steps'] for run in own.values()):,} inner steps"),
        ("Tuning", f"{tuned_runs:,} other runs, {tuned_steps:,} inner steps"),
        ("Time", f"{minutes:,.1f} minutes, compilation left out, of all runs whose time was recorded"),
        ("Seeds", _distinct(runs, "seed")),
        ("Steps of a run", _distinct(runs, "num_steps")),
        ("Batch size", _distinct(runs, "batch_size")),
        ("Unit of losses", _distinct(runs, "unit")),
        ("Loss of guessing", _distinct(runs, "guessing_loss")),
        ("Data (digest)", _distinct(runs, "data_digest")),
        ("Data", _distinct(runs, "data")),
        ("Schema of the results", str(SCHEMA)),
    ]  # fmt: skip


def _unique(records: Sequence[Record]) -> list[Record]:
    return list({record["key"]: record for record in records}.values())


def _distinct(runs: Sequence[Record], field: str, limit: int = 12) -> str:
    """The different values of a field, in words."""
    values = {json.dumps(run[field], sort_keys=True): run[field] for run in runs}
    texts = [
        value if isinstance(value, str) and value else f"{value:g}" if isinstance(value, float)
        else "not given" if value in (None, "", {}) else text
        for text, value in sorted(values.items())
    ]  # fmt: skip
    if all(isinstance(value, int) for value in values.values()):
        texts = [f"{value:,}" for value in sorted(values.values())]
    shown = ", ".join(texts[:limit])
    return shown if len(texts) <= limit else f"{shown} and {len(texts) - limit} more"


def _version_facts(runs: Sequence[Record]) -> list[tuple[str, str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run["versions"].items():
            found.setdefault(str(name), set()).add(str(version))
    found.setdefault("jax", set()).update(run["jax_version"] for run in runs if run["jax_version"])
    return [(name, ", ".join(sorted(versions)) or "not given") for name, versions in found.items()]


def _optimizer_details(label: str, runs: Sequence[Record]) -> Markup:
    own = [run for run in runs if run["optimizer"] == label]
    shown: dict[str, Any] = {
        "parametrization": _distinct(own, "parametrization"),
        "tuned_at": _distinct(own, "tuned_at"),
        "learning_rate": _distinct(own, "learning_rate"),
        "optimizer_config": _different([run["optimizer_config"] for run in own]),
        "provenance": _different([run["provenance"] for run in own if run["provenance"] is not None]),
    }
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    return element("details", element("summary", label), element("pre", text))


def _different(values: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())
