"""The configuration: one TOML file, overridden by the environment, every key with a unit, a default and bounds.

table.py      what every table is; a field's meaning, unit and bounds
listeners.py  the tables of the listeners; channels/: those of the channels, a file for each kind; schema.py: all
              others. docs/configuration.md is made from them
load.py       file + environment -> Config; the first thing wrong is a ConfigError naming its key
checks.py     what one field alone cannot say: pairs of keys, names that must exist, addresses
reference.py  what is in force, secrets masked; the reference page
"""

from gateway.config.channels import KINDS, Channel, OnAmbiguous, Webhook
from gateway.config.checks import check, parse_listen
from gateway.config.listeners import Broker, Callbacks, Http, Mqtt, Websocket
from gateway.config.load import PREFIX, load
from gateway.config.reference import masked, reference_markdown
from gateway.config.schema import (
    SCOPES,
    Algorithm,
    ApiKey,
    Auth,
    Category,
    Clients,
    Config,
    Dedup,
    Drain,
    Issuer,
    Limits,
    Log,
    RouteRule,
    Routes,
    Scope,
    Session,
    Store,
)
from gateway.config.table import Table

__all__ = [
    "KINDS",
    "PREFIX",
    "SCOPES",
    "Algorithm",
    "ApiKey",
    "Auth",
    "Broker",
    "Callbacks",
    "Category",
    "Channel",
    "Clients",
    "Config",
    "Dedup",
    "Drain",
    "Http",
    "Issuer",
    "Limits",
    "Log",
    "Mqtt",
    "OnAmbiguous",
    "RouteRule",
    "Routes",
    "Scope",
    "Session",
    "Store",
    "Table",
    "Webhook",
    "Websocket",
    "check",
    "load",
    "masked",
    "parse_listen",
    "reference_markdown",
]
