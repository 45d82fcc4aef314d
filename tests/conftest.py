"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Machines are shared and noisy: time belongs in benchmarks.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
