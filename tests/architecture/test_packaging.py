"""setup.cfg says what is there."""

import configparser

from tests.architecture.sources import ROOT

INSTALLED_AS = {"checkpoints": "mulo.released"}


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_folder_with_an_init_is_a_package_and_the_other_way_round():
    listed = setup_cfg()["options"]["packages"].split()
    folders = [
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("mulo", "eval_tasks", "meta_train", "checkpoints")
        for path in (ROOT / top).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(INSTALLED_AS.get(folder, folder) for folder in folders)


def test_every_folder_of_python_files_is_a_package():
    for top in ("mulo", "eval_tasks", "meta_train", "tests"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_entry_points_exist():
    entries = setup_cfg()["options.entry_points"]["console_scripts"].split("\n")
    commands = dict(entry.replace(" ", "").split("=") for entry in entries if entry)
    assert commands == {"mulo-meta-train": "meta_train.cli:main", "mulo-eval": "eval_tasks.cli:main"}
    for target in commands.values():
        assert (ROOT / (target.split(":")[0].replace(".", "/") + ".py")).exists(), target
