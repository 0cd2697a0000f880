"""Who may import whom."""

import graphlib
import subprocess
import sys

import pytest

from tests.architecture.sources import PACKAGES, ROOT, sources

OURS = {*PACKAGES, "tests"}
MAY_IMPORT = {
    "mulo": set(),
    "eval_tasks": {"mulo"},
    "meta_train": {"mulo", "eval_tasks"},
    "checkpoints": set(),
}
LIBRARY_NEEDS = {"jax", "optax", "flax", "numpy", "msgpack"}
LIBRARY_EXTRAS = {  # imported inside functions
    "mulo/importers/files.py": {"safetensors"},
    "mulo/importers/hub.py": {"huggingface_hub"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_direction(package):
    found = sources(package)
    assert found
    for source in found:
        assert source.foreign_imports() & OURS <= {package, *MAY_IMPORT[package]}, source.name


def test_the_library_needs_only_its_own_dependencies():
    for source in sources("mulo"):
        extra = LIBRARY_EXTRAS.get(source.name, set())
        assert source.foreign_imports() <= {"mulo", *LIBRARY_NEEDS, *extra}, source.name


def test_the_library_does_without_its_extras():
    extras = {name for extra in LIBRARY_EXTRAS.values() for name in extra}
    modules = [name.removesuffix(".py").replace("/", ".") for name in LIBRARY_EXTRAS]
    program = f"import sys, mulo.loading, {', '.join(modules)}; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert not extras & set(output.split())


def test_only_files_called_so_may_import_ray():
    for source in sources(*PACKAGES):
        if not source.name.rpartition("/")[2].startswith("ray_"):
            assert "ray" not in source.foreign_imports(), source.name


def test_underscore_modules_are_private_to_their_package():
    for source in sources(*PACKAGES):
        for name in source.imports():
            package, *rest = name.split(".")
            private = package in OURS and any(part.startswith("_") for part in rest)
            assert not private or source.name.startswith(f"{package}/"), f"{source.name} imports {name}"


def _module_of(name, modules):
    """The module that the full name of an import is of: `mulo.mup.roles` for `mulo.mup.roles.Role`."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def test_no_module_imports_itself_by_way_of_others():
    """Imports inside functions count too, those for type checkers alone do not."""
    modules = {
        source.name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): source
        for source in sources(*MAY_IMPORT)
    }
    imported = {
        module: {_module_of(name, modules) for name in source.imports(for_types=False)} - {"", module}
        for module, source in modules.items()
    }
    graphlib.TopologicalSorter(imported).prepare()


def test_mup_knows_nothing_of_optimizers_and_these_of_it_the_records_alone():
    records = {"mulo.mup.roles", "mulo.mup.shapes"}
    for source in sources("mulo/optimizers"):
        used = {name for name in source.imports() if name.startswith("mulo.mup")}
        assert {".".join(name.split(".")[:3]) for name in used} <= records, source.name
    for source in sources("mulo/mup"):
        assert not any(name.startswith("mulo.optimizers") for name in source.imports()), source.name


@pytest.mark.parametrize(
    "statement",
    [
        "import mulo",
        "import mulo.names, mulo.errors",
        "from mulo.optimizers import OPTIMIZERS",
        "from mulo.importers import KINDS; import mulo.importers.hub",
        "import mulo; mulo.InputError, mulo.CheckpointError, dir(mulo)",
    ],
)
def test_what_a_command_line_reads_first_imports_no_jax(statement):
    program = f"import sys; {statement}; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
