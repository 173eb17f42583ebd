"""The table of promises in docs/security.md names tests that are there."""
import re

from tests.support.command import ROOT


def test_the_tests_that_prove_the_promises_are_there():
    page = (ROOT / "docs/security.md").read_text()
    rows = re.findall(r"^\| .* \| (`tests/.*) \|$", page, re.M)
    assert len(rows) > 15
    for row in rows:
        for place in row.split("; "):
            path, *names = re.findall(r"`([^`]+)`", place)
            text = (ROOT / path).read_text()
            assert names and all(f"def {name}(" in text for name in names), place
