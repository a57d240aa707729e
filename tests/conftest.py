"""What all tests share."""

from hypothesis import HealthCheck, settings

# no deadlines: how fast a shared machine is proves nothing
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")
