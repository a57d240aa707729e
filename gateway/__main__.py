"""`python -m gateway` is `bot-gateway`."""

import sys

from gateway.cli import main

sys.exit(main())
