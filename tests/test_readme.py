import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.usefixtures("standard_promotion")
def test_the_python_examples_run_in_order():
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    with jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)


def test_the_first_lines_are_the_two_commands():
    lines = [line.split() for line in README.read_text().splitlines() if line.startswith("    make")]
    assert [line[:2] for line in lines[:2]] == [["make", "demo"], ["make", "test"]]


def test_every_local_link_leads_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
