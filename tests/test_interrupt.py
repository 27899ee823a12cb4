"""Signals inside a training loop and between two stages."""

import signal

import pytest

from lt_jax.core import errors, interrupt
from lt_jax.data import decode


def test_first_ctrl_c_requests_a_stop_and_the_second_interrupts():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        interrupt.install()
        with interrupt.deferred():
            signal.raise_signal(signal.SIGINT)
            assert interrupt.requested()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        interrupt.install()
        assert not interrupt.requested()
        with pytest.raises(errors.Stopped, match="stopped by a signal"):
            signal.raise_signal(signal.SIGINT)
    finally:
        interrupt.install()
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_ctrl_c_of_one_of_several_processes_becomes_a_sigterm(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    received = []
    try:
        interrupt.install()
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))  # as JAX does
        monkeypatch.setattr(interrupt.distributed, "several", lambda: True)
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGTERM]
    finally:
        interrupt.install()
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_a_signal_after_the_last_step_stops_before_the_next_stage(monkeypatch):
    interrupt.stop_if_requested()
    monkeypatch.setattr(interrupt, "_requested", True)
    with interrupt.deferred():
        interrupt.stop_if_requested()
    with pytest.raises(errors.Stopped, match="stopped by a signal"):
        interrupt.stop_if_requested()


def test_code_that_handles_the_errors_of_a_reader_lets_a_stop_through():
    before = signal.getsignal(signal.SIGTERM)
    try:
        interrupt.install()
        with pytest.raises(errors.Stopped), decode._errors("a.png", b"content"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        interrupt.install()
        signal.signal(signal.SIGTERM, before)
