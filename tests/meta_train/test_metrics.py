import json
import struct

import pytest

from meta_train.metrics import MetricsWriter

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def read_board(folder):
    """What TensorBoard shows: {tag: {step: value}}; a new session drops later steps of the one before."""
    curves = {}
    for path in sorted(folder.iterdir()):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack("<Q", content[start : start + 8])
            event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
            start += 16 + length
            if event.session_log.status == event_pb2.SessionLog.START:
                curves = {tag: {s: v for s, v in c.items() if s < event.step} for tag, c in curves.items()}
            for value in event.summary.value:
                steps = curves.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    return curves


def make_record(meta_step, **others):
    return {"meta_step": meta_step, "meta_loss": 2.0, "skipped": False, "task_losses": {"a": 1.5}, **others}


def test_numbers_are_in_json_and_in_tensorboard_and_nan_is_null(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "board") as metrics:
        metrics.write(make_record(0))
        metrics.write(make_record(1, gradient_norm=float("inf"), task_losses={"a": float("nan")}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == make_record(0)
    assert lines[1] == make_record(1, gradient_norm=None, task_losses={"a": None})
    curves = read_board(tmp_path / "board")
    assert curves["meta_loss"] == {0: 2.0, 1: 2.0} and curves["skipped"] == {0: 0.0, 1: 0.0}
    assert curves["gradient_norm"] == {1: float("inf")}
    assert curves["task_losses/a"][0] == 1.5


def test_what_is_written_is_on_the_disk_at_once_and_is_dropped_by_a_resumed_run(tmp_path, monkeypatch):
    first = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "board")
    for step in range(5):
        first.write(make_record(step))
    assert list(read_board(tmp_path / "board")["meta_loss"]) == [0, 1, 2, 3, 4]
    monkeypatch.setattr("time.time", lambda: 4e9)  # event files are named by the second
    with first, MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "board", first_meta_step=3) as metrics:
        metrics.write(make_record(3))
    assert list(read_board(tmp_path / "board")["meta_loss"]) == [0, 1, 2, 3]
