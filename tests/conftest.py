"""Strict JAX flags for every test, eight devices on the CPU, quick compilation, one cache for the session."""

import os

import jax
import jaxlib
import pytest

# Compilation is most of what the tests cost, and with these flags it takes a third to a quarter of the time:
# LLVM optimizes nothing, and fused operations are written by XLA's older, quicker emitter. XLA reads the
# flags when it first compiles; processes that tests start inherit them. A caller's own XLA_FLAGS, empty ones
# too, are kept: `XLA_FLAGS= make test` compiles as for users, and so do `make test-slow` and `test-faults`.
_QUICK_FLAGS = "--xla_backend_optimization_level=0"
if jaxlib.__version__.startswith("0.10."):  # XLA ends the process at a flag that it does not know
    _QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"
QUICK_COMPILATION = os.environ.setdefault("XLA_FLAGS", _QUICK_FLAGS) == _QUICK_FLAGS

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_sessionfinish(session):
    """With `TESTS_SKIPPED=fail`, as continuous integration has it, a test that is skipped fails the run.

    `make test` installs all that its tests need: whatever is missing there would go unseen.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped") if reporter else None
    if skipped and os.environ.get("TESTS_SKIPPED") == "fail":
        reporter.write_line(f"{len(skipped)} skipped, and TESTS_SKIPPED=fail: -rs says why", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Tests that start the same run again do not compile it again.

    One for each worker of pytest-xdist: JAX's cache does not write its files atomically.
    """
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compilation_cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="module")
def standard_promotion():
    """For tests that run optax.adam, which raises a Python float to an integer array."""
    with jax.numpy_dtype_promotion("standard"):
        yield
