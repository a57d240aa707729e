"""From a channel's settings to its provider: kind `x` is the file `x.py` here, and what that calls `PROVIDER`."""

from importlib import import_module

from gateway.config.channels import Channel
from gateway.providers.provider import Provider


def make(name: str, settings: Channel, callback: str) -> Provider:
    """The provider of a channel; its file is read only where such a channel is configured. Raises ConfigError.

    `callback`: the public URL where its callbacks arrive; "": nowhere.
    """
    module = import_module(f"gateway.providers.{settings.__struct_config__.tag}")
    provider: Provider = module.PROVIDER(name, settings, callback)
    return provider
