"""From a channel's settings to its provider: kind `x` is the file `x.py` here, and what that calls `PROVIDER`."""

from importlib import import_module

from gateway.config.channels import Channel
from gateway.errors import ConfigError
from gateway.providers.provider import Provider, Reporting


def make(name: str, settings: Channel, callback: str) -> Provider:
    """The provider of a channel; its file is read only where such a channel is configured. Raises ConfigError.

    `callback`: the public URL where its callbacks arrive; "": nowhere.
    """
    module = import_module(f"gateway.providers.{settings.__struct_config__.tag}")
    provider: Provider = module.PROVIDER(name, settings, callback)
    _check_satisfiable(name, settings, isinstance(provider, Reporting), callback)
    return provider


def _check_satisfiable(name: str, settings: Channel, reports: bool, callback: str) -> None:
    """Raises ConfigError for a step that nothing could ever satisfy."""
    wanted = settings.satisfied_by
    if wanted in ("accepted", settings.PROVES) or (reports and callback):
        return
    field = f"channels.{name}.satisfied_by"
    why = (
        "needs callbacks.listen and callbacks.public_url"
        if reports
        else "no provider of this kind reports it"
    )
    raise ConfigError(f"{field}: `{wanted}`: {why}", field=field)
