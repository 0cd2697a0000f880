"""Whether reading takes time in proportion to what is read."""

import contextlib
import time

import pytest

TIMES = 4
"""Each of the three sizes is so many times the one before."""


def check_linear(make, read, size, error=Exception, seconds=0.05):
    """Fails where 16 times the input takes more than about 16 times the time.

    Args:
      make: size -> input.
      read: of the input; may raise `error`.
      size: the smallest.
      error: class of errors that are an answer.
      seconds: what is too little to be measured.
    """
    spent = []
    for one in (size, size * TIMES, size * TIMES**2):
        given = make(one)
        best = float("inf")
        for _ in range(2):  # the machine may be busy in one of them
            began = time.process_time()
            with contextlib.suppress(error):
                read(given)
            best = min(best, time.process_time() - began)
        spent.append(best)
        if spent[-1] > TIMES * 2.5 * max(spent[0 if len(spent) == 1 else -2], seconds):
            pytest.fail(f"{one} bytes take {spent[-1]:.2f} s, a {TIMES}th of them {spent[-2]:.2f} s")
