"""What `mulo-eval list` says of a suite."""

from eval_tasks.baselines import BASELINES, DEFAULT_BASELINES
from eval_tasks.costs import Cost, estimate_cost
from eval_tasks.suites import Suite


def describe_suite(suite: Suite) -> str:
    """Some lines: its series, and the cost of one learned optimizer alone, and beside baselines."""
    lines = [
        f"{suite.name}, {suite.size}: {suite.num_seeds} seeds, {suite.num_tuning_seeds} at each learning "
        "rate that is tried"
    ]
    for series in suite.series:
        values = ", ".join(f"{value:,}" for value in series.values)
        steps = "" if series.axis == "num_steps" else f"{series.num_steps:,} steps, "
        lines.append(
            f"  {series.base}: {series.axis.removeprefix('num_')} {values}; {steps}batch size "
            f"{series.batch_size:,}"
        )
    learned = ("learned", "")
    for words, names in (
        ("one learned optimizer", ()),
        ("with the default baselines", DEFAULT_BASELINES),
        ("with all baselines", tuple(BASELINES)),
    ):
        protocols = [learned, *(("baseline", BASELINES[name].tuned_at) for name in names)]
        lines.append(f"    {words}: {_cost_text(estimate_cost(suite, protocols), suite.size)}")
    return "\n".join(lines)


def _cost_text(cost: Cost, size: str) -> str:
    text = f"{cost.runs:,} runs, {cost.inner_steps:,} inner steps, {cost.flops:.1e} floating-point operations"
    if size == "gpu":
        return text
    minutes = cost.cpu_seconds / 60
    time = f"{max(1, round(minutes))} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    return f"{text}; about {time} on two cores, and compilation"
