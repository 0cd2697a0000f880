"""Strict JAX flags for every test, eight devices on the CPU, and one compilation cache for the session."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Tests that start the same run again do not compile it again."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compilation_cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module")
def standard_promotion():
    """For tests that run optax.adam, which raises a Python float to an integer array."""
    with jax.numpy_dtype_promotion("standard"):
        yield
