"""What all tests share."""

import signal

from hypothesis import HealthCheck, settings

# no deadlines: how fast a shared machine is proves nothing
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")

# a shell without job control starts what it puts into the background with SIGINT ignored, and children inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
