"""Which versions of etcd people are warned of."""

import pytest

from config_sync.etcd.versions import known_losses


@pytest.mark.parametrize("version", ["3.5.18", "3.5.21", "3.6.0", "3.10.1", "4.0.0", "3.6.0-rc.1"])
def test_nothing_is_known_against_newer_ones(version: str) -> None:
    assert known_losses(version) is None


@pytest.mark.parametrize("version", ["3.5.17", "3.5.1", "3.5.2-pre", "3.4.34", "2.3.8"])
def test_older_ones_lose_events(version: str) -> None:
    warning = known_losses(version)
    assert warning is not None
    assert version in warning
    assert "3.5.18" in warning


@pytest.mark.parametrize("version", ["", "unknown", "v3.5", "3.6"])
def test_what_is_no_version_is_said_so(version: str) -> None:
    assert "3.5.18" in (known_losses(version) or "")
