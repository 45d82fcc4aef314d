"""Settings of all tests."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and noisy: time belongs in benchmarks.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what was logged of keys that are no UTF-8 pass between the processes of pytest-xdist."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
