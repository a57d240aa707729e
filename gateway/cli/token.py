"""`token`: a JWT for a client, signed here with the gateway's own secret."""

import argparse

from gateway.cli.exits import Exit
from gateway.cli.output import Output
from gateway.cli.where import Where


def token(options: argparse.Namespace) -> int:
    """Prints the token and nothing else."""
    out = Output(json=options.json)
    minted = Where(options).mint(options.client, options.ttl, options.pub, options.may or ())
    if out.json:
        out.line({"client": options.client, "token": minted})
    else:
        out.plain(minted)
    return Exit.OK
