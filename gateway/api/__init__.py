"""The HTTP API (PROTOCOL 5), on the inner listener; and the listener for providers' callbacks.

    server.py      the listener: starts, stops, and what HTTP itself gets wrong
    dispatch.py    the one way in: route, credential, query; every error becomes a problem document
    routes.py      the table of calls, which is also what openapi.py describes
    base.py        what a handler is handed: the Api, and one Call; reading bodies
    schemas.py     the shapes of bodies, queries and answers; views.py fills the larger ones
    messages.py ndjson.py clients.py deadletters.py events.py ops.py   the calls
    callbacks.py   the other listener
    problems.py    errors as RFC 9457 problem documents

The API keeps no state of its own: what it answers was committed.
"""

from gateway.api.callbacks import CallbackServer
from gateway.api.server import ApiServer

__all__ = ["ApiServer", "CallbackServer"]
