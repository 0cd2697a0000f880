"""Whatever stands in the files of a run, reading them is a result or an error in one line."""

import json
import random
import shutil

import numpy as np
import pytest

from meta_train.cli import main
from meta_train.config import MetaTrainConfig
from meta_train.config_file import read_config_file, to_toml
from meta_train.export import _final_meta_loss
from meta_train.presets import PRESETS
from meta_train.resume_file import Identity, ResumeState, read_resume_file, read_theta, write_resume_file
from meta_train.run_directory import RunDirectory
from meta_train.status import format_status, read_status
from mulo.checkpoint_file import read_file, write_file
from mulo.errors import InputError
from tests.meta_train.test_resume_file import HERE, behind, own_fields, programs, state

__all__ = ["behind", "programs", "state"]  # fixtures
pytestmark = pytest.mark.usefixtures("standard_promotion")

SEED, NUM_TRIALS = 0, 150
CONFIG = PRESETS["quick"]
DEEP = "[" * 20_000 + "]" * 20_000
VALUES = (
    None, True, -1, 0, 2**31, 2**64, 10**30, 0.5, -1e300, 1e300, "", "x", "\x1b[2J", "a\nb", "\ud800", "\0",
    "n" * 5000, "../../etc", [], {}, [1], {"a": 1}, {"\x1b]0;t\x07": 1.0}, {"\udcff": [1]}, [[[[]]]],
)  # fmt: skip
SPELLINGS = ("NaN", "-Infinity", "1e999", "1" + "0" * 400, "1" * 6000, DEEP, '"\\ud800"', "'x'", "")

BYTES = (b"\0", b"\n", b"\xff\xfe", b'"', b"\\", b"{", b"[", b"\xe2\x80\xa8", b"\r")

RECORD = {
    "meta_step": 0,
    "meta_loss": 1.5,
    "task_losses": {"mlp-w8-d2_digits": 1.0},
    "clipped_fraction": 0.0,
    "nonfinite_fraction": 0.0,
    "gradient_norm": 1.0,
    "skipped": False,
    "inner_steps_per_second": 10.0,
    "wall_seconds": 1.0,
    "validation_score": 0.1,
    "best_score": 0.1,
    "best_meta_step": 3,
    "worker_slots": {"0": 2},
    "worker_inner_steps_per_second": {"0": 5.0},
    "worker_busy_fraction": {"0": 0.5},
    "restarts": 0,
    "replays": 0,
    "driver_seconds": 1.0,
    "executor_seconds": 2.0,
}


def make_metrics():
    return "".join(json.dumps(RECORD | {"meta_step": step}) + "\n" for step in range(6)).encode()


def change_bytes(rng, content):
    """Some bytes others, cut out, doubled, or put in."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(content):
            content[at] = rng.randrange(256)
        elif kind == 1:
            del content[at : at + rng.randint(1, 40)]
        elif kind == 2:
            content[at:at] = content[at : at + rng.randint(1, 60)]
        elif kind == 3:
            content[at:at] = rng.choice(BYTES)
        else:
            del content[at:]
    return bytes(content)


def change_json(rng, text):
    """One of the values of a JSON object another one, or spelt as Python's reader takes it too."""
    fields = json.loads(text)
    name = rng.choice(list(fields))
    if rng.random() < 0.3:
        fields[name] = "SPELLING"
        return json.dumps(fields).replace('"SPELLING"', rng.choice(SPELLINGS))
    if rng.random() < 0.1:
        name = rng.choice([value for value in VALUES if isinstance(value, str)])
    fields[name] = rng.choice(VALUES)
    return json.dumps(fields)


def trials(change, content):
    rng = random.Random(SEED)
    yield from (change(rng, content) for _ in range(NUM_TRIALS))


def assert_one_line(error):
    assert "\n" not in str(error).rstrip("\n")


def check_printed(text):
    assert text.replace("\n", "").isprintable()
    text.encode()


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path / "run", CONFIG)


def test_metrics(directory):
    def change_a_line(rng, content):
        lines = content.decode().splitlines()
        for at in rng.sample(range(len(lines)), 3):
            lines[at] = change_json(rng, lines[at])
            if rng.random() < 0.1:
                lines[at] = rng.choice(["", DEEP, "null", "[]", "\0", "1"])
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")

    contents = [*trials(change_bytes, make_metrics()), *trials(change_a_line, make_metrics())]
    contents += [b"", b"\n", b"\xff\n", DEEP.encode() + b"\n", b"x" * 2**19 + b"\n"]
    for content in contents:
        directory.metrics_path.write_bytes(content)
        check_printed(format_status(read_status(directory.path)))
        loss = _final_meta_loss(directory.metrics_path, 6)
        assert loss is None or np.isfinite(loss)
        directory.cut_metrics(4)
        kept = directory.metrics_path.read_bytes().split(b"\n")[:-1]
        steps = [json.loads(line)["meta_step"] for line in kept]
        assert steps == sorted(set(steps)) and all(step < 4 for step in steps)


def test_configurations(directory):
    text = CONFIG.to_json()
    contents = [*trials(change_bytes, text.encode())]
    contents += [t.encode("utf-8", "surrogatepass") for t in trials(change_json, text)]
    contents += [DEEP.encode(), b"", b"null", b"[]", b"1", b'""', b"\xff", b" " * 2**21]
    for content in contents:
        (directory.path / "config.json").write_bytes(content)
        try:
            check_printed(format_status(read_status(directory.path)))
        except InputError as error:
            assert_one_line(error)


def test_configuration_files(tmp_path):
    text = to_toml(CONFIG)

    def change_a_line(rng, text):
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        others = ("1979-05-27", "inf", "nan", "0xff", "{a=1}", "''", "[1, 'a']")
        value = rng.choice([*map(json.dumps, VALUES), *SPELLINGS, *others])
        lines[at] = f"{rng.choice(['seed', 'tasks', 'preset', 'optimizer', 'meta_steps', 'x'])} = {value}"
        return "\n".join(lines)

    contents = [*trials(change_bytes, text.encode())]
    contents += [t.encode("utf-8", "surrogatepass") for t in trials(change_a_line, text)]
    contents += [f"tasks = {DEEP}".encode(), b" " * 2**21, b"\xff", b"preset = []"]
    contents += [b"a.b.c = 1", b"[seed]\nx=1"]
    for content in contents:
        (tmp_path / "mine.toml").write_bytes(content)
        try:
            preset, fields = read_config_file(tmp_path / "mine.toml")
            PRESETS[preset or "quick"].replace(**fields)
        except InputError as error:
            assert_one_line(error)


def test_resume_files(programs, state, behind, tmp_path):
    path = tmp_path / "step-00000004.mulo"
    for which in (state, behind):
        write_resume_file(path, which, HERE)
        content = path.read_bytes()
        header, body = read_file(path, kind="run-state", max_bytes=2**30)
        fields = json.dumps(own_fields(header))
        for number, changed in enumerate(trials(change_bytes, content)):
            path.write_bytes(changed)
            check_resume(path, programs if number % 30 == 0 else None)
        for number, changed in enumerate(trials(change_json, fields)):
            try:
                write_file(path, kind="run-state", header=json.loads(changed), body=body)
            except (InputError, ValueError, RecursionError):
                continue
            check_resume(path, programs if number % 15 == 0 else None)


def check_resume(path, programs):
    """With programs all of it is read, which traces them; else theta alone, which checks the same header."""
    try:
        if programs is None:
            assert set(read_theta(path, HERE))
        else:
            assert isinstance(read_resume_file(path, HERE, programs), ResumeState)
    except InputError as error:
        assert_one_line(error)


def test_identities_that_no_run_has(programs, state, tmp_path):
    write_resume_file(tmp_path / "file", state, HERE)
    for meta_step in (-1, 0, 10**9):
        with pytest.raises(InputError):
            read_resume_file(tmp_path / "file", Identity(HERE.config, meta_step), programs)


NAMES = ("x\x1b[31m\x1b]0;t\x07", "two\nlines", "\udcff\udcfe", "\u202egnirts", "n" * 200, "sp ace", "-dash")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_without_what_a_terminal_would_carry_out(tmp_path, capsys, name):
    path = tmp_path / name
    directory = RunDirectory.create(path, CONFIG)
    directory.metrics_path.write_bytes(
        json.dumps(RECORD | {"task_losses": {name: 1.0}, "worker_slots": {name: 1}}).encode() + b"\n"
    )
    for arguments in (["status", path], ["watch", path], ["status", "--json", path], ["digest", path]):
        assert main(list(map(str, arguments))) in (0, 2)
    for arguments in (["--out", path], ["--resume", path, "--seed", "1"], ["status", path / "no"]):
        assert main(list(map(str, arguments))) == 2
    shutil.rmtree(path)
    assert main(["--resume", str(path)]) == 2
    for text in capsys.readouterr():
        check_printed(text)


@pytest.mark.parametrize("flag", ["--out", "--resume", "--config", "status", "digest"])
@pytest.mark.parametrize("name", ["n" * 256, "a/" * 4000, "nul\0"])
def test_names_that_no_file_can_have(tmp_path, capsys, flag, name):
    assert main([flag, str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 10_000


def test_the_readers_take_what_is_right(directory, tmp_path):
    """The valid files from which all of the above are made."""
    directory.metrics_path.write_bytes(make_metrics())
    status = read_status(directory.path)
    assert (status.meta_step, status.damaged_lines, status.last_score_meta_step) == (6, 0, 6)
    assert MetaTrainConfig.from_json(CONFIG.to_json(), "") == CONFIG
    (tmp_path / "mine.toml").write_text(to_toml(CONFIG))
    assert CONFIG.replace(**read_config_file(tmp_path / "mine.toml")[1]) == CONFIG


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_no_time_left_is_told_from_the_first_meta_steps(directory, num_steps):
    seconds = [3600.0, *[2.0] * 5]
    lines = [json.dumps({"meta_step": s, "wall_seconds": seconds[s]}) + "\n" for s in range(num_steps)]
    directory.metrics_path.write_text("".join(lines))
    assert read_status(directory.path).seconds_left is None
    with directory.lock():
        assert "not known yet" in format_status(read_status(directory.path))
    lines.append(json.dumps({"meta_step": 3, "wall_seconds": 2.0}) + "\n")
    if num_steps == 3:
        directory.metrics_path.write_text("".join(lines))
        assert read_status(directory.path).seconds_left == 2.0 * (CONFIG.meta_steps - 4)
