"""SIGINT, SIGTERM and SIGHUP ask a run to save and leave; a second one leaves at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_ANSWER = b"\nStopping when this meta-step has ended, and saving; a second signal leaves at once.\n"


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.signal_number: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        # Not by print, which a signal may come in the midst of; and the terminal may be gone.
        with suppress(OSError):
            os.write(2, _ANSWER)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns these signals into a request that the outer loop looks at between two meta-steps."""
    request = StopRequest()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under `nohup` the run outlives its terminal
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request._handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
