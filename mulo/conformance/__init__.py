"""Replays a recorded trace of a reference implementation and compares: `python -m mulo.conformance FILE.npz`.

A trace holds weights, initial parameters and prescribed gradients, and what the reference computed from
them. The format of the files is described in `tests/golden/README.md`.
"""

from mulo.conformance.command import main as main
