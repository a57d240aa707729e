"""TLS of the listeners that clients connect to."""

import ssl

from gateway.errors import ConfigError


def tls_context(cert: str, key: str, table: str, alpn: str) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with OpenSSL's choice of ciphers, for the protocol named `alpn` (RFC 7301).

    Raises ConfigError for files that cannot be used, naming the key of `table`, such as `websocket`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([alpn])
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        field = f"{table}.tls_cert"
        raise ConfigError(f"{field}: {error.strerror or error}", field=field) from None
    return context
