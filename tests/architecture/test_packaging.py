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


def test_the_lock_file_has_a_hash_for_every_package_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not {"--index-url", "--extra-index-url", "--find-links", "--trusted-host"} & set(text.split())
    entries = text.replace("\\\n", " ").splitlines()
    packages = [line for line in entries if line.strip() and not line.startswith("#")]
    assert len(packages) > 50
    assert [line for line in packages if "==" not in line or "--hash=sha256:" not in line] == []


def test_what_is_locked_is_installed_with_its_hashes():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for line in makefile.splitlines() if "pip install" in line and "requirements.lock" in line]
    assert lines
    assert all("--require-hashes" in line for line in lines)
    assert "--generate-hashes" in makefile


def test_what_the_tests_import_is_in_their_extra():
    listed = setup_cfg()["options.extras_require"]["test"]
    assert "equinox" in listed
    assert "equinox==" in (ROOT / "requirements.lock").read_text(encoding="utf-8")
