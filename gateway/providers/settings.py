"""Checks of settings that many providers share."""

from urllib.parse import urlsplit

from gateway.config.channels import Channel
from gateway.errors import ConfigError
from gateway.providers.addresses import is_loopback


def check_url(text: str, settings: Channel, field: str) -> None:
    """Raises ConfigError unless `text` is an absolute http or https URL without credentials; and https, unless it stays
    inside. The URL may hold a secret: it is not quoted.
    """
    wrong = ConfigError(f"{field}: must be an http or https URL, without user or password", field=field)
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        raise wrong from None
    if not valid or "@" in url.netloc or not text.isprintable() or " " in text:
        raise wrong
    if url.scheme == "http" and settings.proxies:
        raise ConfigError(f"{field}: must be https: plain http does not go through `proxies`", field=field)
    if url.scheme == "http" and not settings.allow_private and not is_loopback(url.hostname or ""):
        raise ConfigError(f"{field}: must be https; plain http needs allow_private = true", field=field)
