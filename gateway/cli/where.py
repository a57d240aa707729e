"""Where the gateway is, and what opens it: an option, else the environment, else the configuration as `serve` reads it.

The names in the environment begin with BOT_GATEWAY_, because every BOTGW_ variable is a key of the configuration.

A secret of this machine's data folder goes to this gateway only: to a loopback address, or to the address that the
configuration names. For any other the credential has to be named too.
"""

import argparse
import ipaddress
import os
import shlex
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway.bootstrap import FILE, prepare
from gateway.cli.exits import Exit, Failure
from gateway.config import Config, Http, Scope, Websocket, load, parse_listen
from gateway.errors import Invalid

PREFIX = "BOT_GATEWAY_"


class Endpoint(NamedTuple):
    """An address, and whom to trust there: None means the usual authorities."""

    url: str
    tls: ssl.SSLContext | None


class Where:
    """`options`: those of the command. Everything raises Failure or ConfigError."""

    def __init__(self, options: argparse.Namespace, env: Mapping[str, str] | None = None) -> None:
        self._options = options
        self._env = os.environ if env is None else env

    def _given(self, name: str) -> str:
        """An option, else its variable, else ""."""
        option: str | None = getattr(self._options, name, None)
        return option if option is not None else self._env.get(PREFIX + name.upper(), "")

    @property
    def config_path(self) -> Path | None:
        path: Path | None = self._options.config
        named = self._env.get(f"{PREFIX}CONFIG", "")
        return path if path is not None else Path(named) if named else None

    @property
    def again(self) -> str:
        """The options of a further command for the same gateway, without a credential."""
        given = {"--config": self._options.config, "--api": self._options.api}
        return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given.items() if value)

    @cached_property
    def config(self) -> Config:
        """The configuration, with the secrets that the first start made."""
        return prepare(load(self.config_path, self._env), create=False)[0]

    # -- the HTTP API ----------------------------------------------------------------------------------------------

    def api(self) -> Endpoint:
        """The API, without a slash at the end."""
        given = self._given("api")
        if given:
            url = _split(given, ("http", "https"), "--api")
            return Endpoint(given.rstrip("/"), self._pinned(url, "https", "http"))
        return Endpoint(self._own_api, _pin(self.config.http))

    def api_key(self, scope: Scope) -> str:
        """`id.secret` of a key with this scope."""
        given = self._given("api_key")
        if given:
            if not given.isascii() or not given.isprintable() or given.count(".") != 1:
                raise Failure(Exit.USAGE, "must be id.secret", field="--api-key")
            return given
        api = self._given("api")
        if api:
            self._refuse_foreign(api, "http", "the API key", "--api-key")
        for key in self.config.auth.api_keys:
            if key.secret and scope in key.scopes:
                return f"{key.id}.{key.secret}"
        raise Failure(
            Exit.USAGE, f"no API key with the scope {scope} is known{self._hint}", field="--api-key"
        )

    # -- the WebSocket ---------------------------------------------------------------------------------------------

    def websocket(self) -> Endpoint:
        given = self._given("url")
        if not given:
            return Endpoint(self._own_websocket, _pin(self.config.websocket))
        url = _split(given, ("ws", "wss"), "--url")
        if url.path in {"", "/"}:
            given = url._replace(path="/ws").geturl()
        return Endpoint(given, self._pinned(url, "wss", "websocket"))

    def token(self) -> str:
        """The token that was named, "" for none: then `mint`."""
        return self._given("token")

    def mint(self, client: str, ttl: float, pub: Sequence[str] | None = None, may: Sequence[str] = ()) -> str:
        """A token by the gateway's own secret, for `ttl` seconds. Raises Invalid for claims that cannot be."""
        from gateway.auth.tokens import Tokens

        given = self._given("url")
        if given:
            self._refuse_foreign(given, "websocket", "a token", "--token")
        auth = self.config.auth
        if not auth.jwt_secret:
            raise Failure(Exit.USAGE, f"no secret to sign tokens with{self._hint}", field="auth.jwt_secret")
        claims: dict[str, Any] = {"may": list(may)}
        if pub is not None:
            claims["pub"] = list(pub)
        tokens = Tokens(auth.jwt_secret, {}, lambda _client: 0, audience=auth.audience)
        try:
            return tokens.mint(client, ttl, claims, time.time())
        except Invalid as error:
            option = (error.field or "").replace("$.", "--", 1).partition("[")[0]
            raise Failure(Exit.USAGE, error.detail, field=option) from None

    # -- what the configuration says -------------------------------------------------------------------------------

    @property
    def _own_api(self) -> str:
        http = self.config.http
        return f"{'https' if http.tls_cert else 'http'}://{_near(http.listen, 'http', '--api')}"

    @property
    def _own_websocket(self) -> str:
        websocket = self.config.websocket
        scheme = "wss" if websocket.tls_cert else "ws"
        return f"{scheme}://{_near(websocket.listen, 'websocket', '--url')}/ws"

    def _pinned(self, url: SplitResult, secure: str, table: str) -> ssl.SSLContext | None:
        """The certificate of this machine's gateway, for an address of this machine that uses TLS."""
        if url.scheme != secure or not _loopback(url.hostname or ""):
            return None
        return _pin(self.config.http if table == "http" else self.config.websocket)

    def _refuse_foreign(self, given: str, table: str, what: str, option: str) -> None:
        url = urlsplit(given)
        if _loopback(url.hostname or ""):
            return
        own = self._own_api if table == "http" else self._own_websocket
        if url.netloc != urlsplit(own).netloc:
            raise Failure(
                Exit.USAGE, f"name it: {what} of this machine is not sent to {url.netloc}", field=option
            )

    @property
    def _hint(self) -> str:
        file = Path(self.config.data_dir) / FILE
        return "" if file.exists() else f": there is no {file}; was the gateway started in this folder?"


def _split(text: str, schemes: Sequence[str], option: str) -> SplitResult:
    """A URL of one of the schemes."""
    try:
        url = urlsplit(text)
        valid = url.scheme in schemes and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        url, valid = SplitResult("", "", "", "", ""), False
    if not valid or not text.isprintable() or " " in text:
        raise Failure(Exit.USAGE, f"must be a URL with {' or '.join(schemes)}", field=option)
    return url


def _near(listen: str, table: str, option: str) -> str:
    """`host:port` at which this machine reaches what listens there."""
    host, port = parse_listen(listen)
    if not port:
        why = f"{table}.listen takes a free port; name the one that serve printed"
        raise Failure(Exit.USAGE, why, field=option)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pin(listener: Http | Websocket) -> ssl.SSLContext | None:
    """Trust in exactly the certificate that the listener shows: on this machine its name is not in the address."""
    if not listener.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        # the first one is the server's own (RFC 8446 4.4.2)
        first, end, _ = (
            Path(listener.tls_cert).read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
        )
        context.load_verify_locations(cadata=first + end)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a certificate in PEM"
        raise Failure(Exit.USAGE, f"{listener.tls_cert}: {why}", field="tls_cert") from None
    return context
