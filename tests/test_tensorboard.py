"""TensorBoard events hold the numbers of metrics.jsonl, also after a resume; without the package one line says so."""

import json
import sys

import pytest
from etils import epath

from lt_jax.core import errors
from lt_jax.train import tensorboard

pytest.importorskip("tensorboardX")


def read(folder):
    """(tag, step) -> value of all event files of a folder, in the order of their names; purged steps are dropped."""
    from tensorboardX.proto import event_pb2

    values = {}
    for file in sorted(folder.glob("events.*")):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                values = {key: value for key, value in values.items() if key[1] < event.step}
            for value in event.summary.value:
                values[value.tag, event.step] = value.simple_value
    return values


def test_events_are_the_lines_of_metrics(tmp_path, run_main, tiny):
    words = ("--stage=pretrain", "--config.log.tensorboard=True", f"--workdir={tmp_path}")
    assert run_main(*tiny, *words) == 0
    values = read(tmp_path / "tensorboard" / "pretrain")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {step for _, step in values} == {line["step"] for line in lines} and len(lines) > 3
    for line in lines:
        for name in ("loss", "learning_rate", "images_per_s"):
            assert values[name, line["step"]] == pytest.approx(line[name], rel=1e-6)


def test_a_resumed_run_replaces_the_steps_after_its_save(tmp_path):
    for start, last in ((0, 6), (4, 8)):
        events = tensorboard.Events(epath.Path(tmp_path), start)
        for step in range(start + 1, last + 1):
            events.add(step, {"loss": float(100 * start + step), "none": None})
        events.close()
    values = read(tmp_path)
    assert values == {("loss", step): float(step if step <= 4 else 400 + step) for step in range(1, 9)}


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        errors.BadInput, match=r"config.log.tensorboard needs tensorboardX: pip install 'lt_jax\[tensor"
    ):
        tensorboard.Events(epath.Path(tmp_path), 0)
