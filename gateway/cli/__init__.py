"""The command line, `bot-gateway`.

    entry.py     main: runs a command, and turns what went wrong into one line and an exit code
    parser.py    the commands and their options
    exits.py     the exit codes, and the failure that carries one
    where.py     where the gateway is, and what opens it: options, environment, configuration
    api.py       calls of the HTTP API
    output.py    tables and trees for people, JSON lines for programs
    shapes.py    what the API answers, as the commands read it; render.py shows it
    dynsec.py    accounts of devices at a Mosquitto broker
    serve.py check.py token.py send.py listen.py status.py letters.py clients.py mqtt.py   the commands

A command imports what it runs when it runs, so that `bot-gateway --help` is quick.
"""

from gateway.cli.entry import main

__all__ = ["main"]
