"""The inner listener: aiohttp's server under our dispatcher, bounded in every direction."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gateway.api.base import Api, HubApi
from gateway.api.connection import Connections
from gateway.api.dispatch import Dispatcher
from gateway.api.openapi import describe
from gateway.api.routes import ROUTES
from gateway.auth import Authenticator
from gateway.config import Callbacks, Config, Http, parse_listen
from gateway.errors import ConfigError

# what a response without an end has at `stop`, in seconds
GRACE = 5.0


class ApiServer:
    """Serves the API on `config.http.listen` between `start` and `stop`.

    `metrics` gives the text of `/metrics`, `channels` how the channels are.
    """

    def __init__(
        self,
        hub: HubApi,
        authenticator: Authenticator,
        config: Config,
        metrics: Callable[[], Awaitable[bytes]],
        outside: Callable[[], str] = lambda: "",
        channels: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._api = Api(hub, authenticator, config, metrics, outside, channels)
        self._api.description = describe(ROUTES, config)
        self._http = config.http
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError for an address or a certificate that cannot be used."""
        host, port = parse_listen(self._http.listen)
        context = tls(self._http)
        self._runner = web.ServerRunner(
            Connections(self._api, Dispatcher(self._api, ROUTES), ROUTES), shutdown_timeout=GRACE
        )
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=context, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"http.listen: {error.strerror}", field="http.listen") from error

    async def stop(self) -> None:
        """Take no more connections, end the streams, let the requests under way finish; at most 3 × GRACE seconds."""
        if self._runner is None or self._site is None:
            return
        await self._site.stop()
        await self._api.end_streams(GRACE)
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        assert self._site is not None
        return self._site.port


def tls(http: Http | Callbacks, table: str = "http") -> ssl.SSLContext | None:
    """The TLS context of a listener, None without a certificate. Raises ConfigError."""
    if not http.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(http.tls_cert, http.tls_key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "not a certificate and its key in PEM"
        raise ConfigError(f"{table}.tls_cert: {why}", field=f"{table}.tls_cert") from None
    return context
