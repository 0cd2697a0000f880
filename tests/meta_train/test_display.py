"""What is said of a run while it goes on."""

import io
import time

import pytest
from rich.console import Console

from meta_train.display import Display

RECORD = {"meta_loss": 1.0, "inner_steps_per_second": 10.0, "clipped_fraction": 0.0}


class Terminal(io.StringIO):
    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails

    def write(self, text):
        if self.fails and text:
            raise OSError(5, "Input/output error")
        return super().write(text)


def make_display(path, output, **how):
    return Display(path, 100, 0, Console(file=output, highlight=False, soft_wrap=True, **how))


def test_no_time_is_told_of_the_meta_steps_that_compile(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = []
    with make_display(tmp_path / "log", io.StringIO()) as display:
        for meta_step, seconds in enumerate([600, 10, 10, 10, 10], 1):
            now[0] += seconds
            display.step(meta_step, RECORD)
        said = (tmp_path / "log").read_text().splitlines()
    assert [" left" in line for line in said] == [False, False, False, True, True]
    assert "16 min 00 s left" in said[3]  # 96 meta-steps of 10 s


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_said_is_printable_on_the_terminal_and_in_the_log(tmp_path, terminal):
    output = io.StringIO()
    with make_display(tmp_path / "log", output, force_terminal=terminal) as display:
        display.say("run \x1b]0;x\x07\nfake \udcff line")
    for text in (output.getvalue(), (tmp_path / "log").read_text(encoding="utf-8")):
        assert "\x07" not in text and "\x1b]0" not in text
        assert r"run \x1b]0;x\x07\nfake \udcff line" in text


def test_a_terminal_that_is_gone_does_not_end_a_run(tmp_path):
    with make_display(tmp_path / "log", Terminal(fails=True)) as display:
        display.say("said")
        display.step(1, RECORD)
    assert "said" in (tmp_path / "log").read_text()
