import errno
import os
import signal
import subprocess
import sys

import pytest

from meta_train.signals import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_leaves(number, capfd):
    # The suite itself may run under nohup, which ignores a hang-up.
    original = signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        signal.raise_signal(number)
        assert request.signal_number == number
        assert capfd.readouterr().err.startswith("\nStopping when this meta-step has ended")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before
    signal.signal(number, original)


def test_a_terminal_that_is_gone_does_not_keep_a_run_from_saving(monkeypatch):
    def write(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with stop_on_signals() as request:
        signal.raise_signal(signal.SIGTERM)
    assert request.signal_number == signal.SIGTERM


def test_under_nohup_a_hang_up_is_no_request():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            signal.raise_signal(signal.SIGHUP)
        assert request.signal_number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_leaves_a_command_is_no_error():
    command = [sys.executable, "-m", "meta_train.cli", "config", "--preset", "quick"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, b"")


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path):
    program = (
        "import sys; from pathlib import Path; from meta_train.display import Display\n"
        "sys.stdin.read(1)\n"
        "with Display(Path(sys.argv[1]), 2, 0) as display:\n    display.say('one'); display.say('two')\n"
    )
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", program, str(log)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
    assert [line.split(" ")[1] for line in log.read_text().splitlines()] == ["one", "two"]
