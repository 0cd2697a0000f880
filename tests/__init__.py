"""The tests, mirroring the packages."""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
