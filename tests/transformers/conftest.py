"""The summary says which versions of the libraries ran."""

from __future__ import annotations

import pytest

from tests.helpers.library_cases import RAN


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each Python with transformers."""
    for which, versions in RAN.items():
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        terminalreporter.write_line(f"{which}: {told}")
