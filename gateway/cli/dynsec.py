"""Accounts of devices at a Mosquitto broker, through the control topic of its dynamic security plugin.

A request is one PUBLISH with a list of commands, carried out in order; the answer is one PUBLISH with a response each.
All administrators get all answers: `correlationData` says whose. A device has an account of its own name, whose client
id is pinned to it, and the role `device-{client}` with its topics. Only accounts with that role are touched.
"""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import aiomqtt
import msgspec
from aiomqtt import MqttCodeError, MqttError
from msgspec import Struct
from paho.mqtt.reasoncodes import ReasonCode

from gateway.cli.exits import Exit, Failure
from gateway.topics import TopicNames

CONTROL = "$CONTROL/dynamic-security/v1"
RESPONSE = f"{CONTROL}/response"
CONNECT_TIMEOUT = 5.0
# for one request; the broker has written its accounts to disk by then
ANSWER_TIMEOUT = 10.0
# 192 random bits, in characters that need no quoting anywhere
PASSWORD_BYTES = 24
# answers to other administrators that may come meanwhile
MAX_ANSWERS = 1000

_NOT_ACCEPTED = frozenset((0x86, 0x87))
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True

Command = dict[str, Any]


class Role(Struct):
    rolename: str


class Account(Struct):
    """What getClient tells of an account."""

    username: str
    disabled: bool = False
    roles: list[Role] = []


class Response(Struct):
    """The response to one command. `error`: empty where it was carried out."""

    command: str = ""
    error: str = ""
    correlation: str = msgspec.field(name="correlationData", default="")
    data: dict[str, Any] = {}


class Answer(Struct):
    responses: list[Response]


class Accounts:
    """One broker, as one administrator; `tls` None is a plain connection. Enter it once. Everything raises Failure."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, user: str, password: str) -> None:
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._user = user
        self._mqtt = aiomqtt.Client(
            host,
            port,
            username=user,
            password=password,
            identifier=f"bot-gateway-cli-{secrets.token_hex(8)}",
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=tls,
            timeout=CONNECT_TIMEOUT,
            max_queued_incoming_messages=MAX_ANSWERS,
            logger=_SILENT,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._mqtt.__aenter__()
        except MqttError as error:
            raise self._unreached(error) from None
        try:
            granted = await self._mqtt.subscribe(RESPONSE, qos=1)
        except MqttError:
            await self._leave()
            raise self._broke_off() from None
        if any(isinstance(code, ReasonCode) and code.is_failure for code in granted):
            await self._leave()
            raise Failure(
                Exit.FAILED,
                f"{self._user} has no right to change accounts there: it may not read {RESPONSE}",
                field="--admin-user",
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def provision(self, client: str, topics: TopicNames, *, rotate: bool) -> tuple[str, bool]:
        """A new password for the device, whose topics are allowed from now on, and whether its account is new.

        An account that is there is only touched with `rotate`; its connection is cut.
        """
        password = secrets.token_hex(PASSWORD_BYTES)
        account = await self._device(client)
        if account is not None and not rotate:
            raise Failure(
                Exit.FAILED,
                f"{client} has credentials; --rotate replaces them, and cuts its connection",
                field="CLIENT",
            )
        if account is not None and account.disabled:
            raise Failure(Exit.FAILED, f"{client} is disabled at the broker", field="CLIENT")
        role = role_of(client)
        secret = {"username": client, "clientid": client, "password": password}
        commands: list[Command] = [
            {"command": "createRole", "rolename": role},
            {"command": "modifyRole", "rolename": role, "acls": list(acls(client, topics))},
        ]
        if account is None:
            commands.append({"command": "createClient", "roles": [{"rolename": role}], **secret})
        else:
            commands.append({"command": "modifyClient", **secret})
        await self._carry_out(commands, but="Role already exists")
        return password, account is None

    async def revoke(self, client: str) -> None:
        """Delete the device's account and role, and cut its connection."""
        if await self._device(client) is None:
            raise Failure(Exit.NOT_FOUND, f"{client} has no credentials there", field="CLIENT")
        await self._carry_out(
            [
                # each cuts its connection: before 2.1 at once, from then on after the answer
                {"command": "disableClient", "username": client},
                {"command": "deleteClient", "username": client},
                {"command": "deleteRole", "rolename": role_of(client)},
            ],
            but="Role not found",
        )

    async def _device(self, client: str) -> Account | None:
        """The account of that name, None where there is none. Fails for one that is no device's."""
        (found,) = await self._ask([{"command": "getClient", "username": client}])
        if found.error == "Client not found":
            return None
        self._check(found)
        try:
            account = msgspec.convert(found.data.get("client"), Account)
        except msgspec.ValidationError:
            raise self._stranger() from None
        if role_of(client) not in {role.rolename for role in account.roles}:
            raise Failure(Exit.FAILED, f"the account {client} is there and is no device's", field="CLIENT")
        return account

    async def _carry_out(self, commands: list[Command], *, but: str) -> None:
        """All of them. `but`: the one refusal that means that nothing was left to do."""
        for response in await self._ask(commands, changes=True):
            if response.error != but:
                self._check(response)

    def _check(self, response: Response) -> None:
        if response.error:
            raise Failure(Exit.FAILED, f"the broker refused {response.command}: {response.error}")

    async def _ask(self, commands: list[Command], *, changes: bool = False) -> list[Response]:
        """The responses, in the order of the commands."""
        unsure = "; it may have been carried out" if changes else ""
        nonce = secrets.token_hex(8)
        wanted = [f"{nonce}-{n}" for n in range(len(commands))]
        tagged = [{**command, "correlationData": tag} for command, tag in zip(commands, wanted, strict=True)]
        got: dict[str, Response] = {}
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._mqtt.publish(CONTROL, msgspec.json.encode({"commands": tagged}), qos=1)
                async for message in self._mqtt.messages:
                    got |= {response.correlation: response for response in self._read(message.payload)}
                    if got.keys() >= set(wanted):
                        return [got[tag] for tag in wanted]
        except TimeoutError:
            pass
        except MqttError:
            raise self._broke_off(unsure) from None
        why = f"is dynamic security loaded at {self._address}, and may {self._user} use it?{unsure}"
        raise Failure(Exit.TIMED_OUT, f"no answer on {CONTROL} within {ANSWER_TIMEOUT:g} s: {why}")

    def _read(self, payload: object) -> list[Response]:
        try:
            return msgspec.json.decode(payload, type=Answer).responses if isinstance(payload, bytes) else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._stranger() from None

    async def _leave(self) -> None:
        # that the broker was gone already changes nothing any more
        with suppress(MqttError):
            await self._mqtt.__aexit__(None, None, None)

    def _stranger(self) -> Failure:
        return Failure(
            Exit.UNREACHABLE, f"what answers at {self._address} is not Mosquitto's dynamic security"
        )

    def _unreached(self, error: MqttError) -> Failure:
        if isinstance(error, MqttCodeError):
            if isinstance(error.rc, ReasonCode) and error.rc.value in _NOT_ACCEPTED:
                return Failure(
                    Exit.FAILED,
                    f"the broker does not accept {self._user} with this password",
                    field="--admin-user",
                )
            return Failure(Exit.FAILED, f"the broker refuses the connection: {error.rc}")
        # aiomqtt keeps of an OSError the text only, but it is still there
        cause = error.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(
                Exit.UNREACHABLE,
                f"cannot trust {self._address}: its certificate does not verify: {cause.verify_message}",
                field="--ca-file",
            )
        why = (cause.strerror if isinstance(cause, OSError) else None) or str(error)
        return Failure(Exit.UNREACHABLE, f"cannot reach {self._address}: {why}")

    def _broke_off(self, unsure: str = "") -> Failure:
        return Failure(Exit.UNREACHABLE, f"the connection to {self._address} broke off{unsure}")


def role_of(client: str) -> str:
    """The role that makes an account a device's."""
    return f"device-{client}"


def acls(client: str, topics: TopicNames) -> Iterator[dict[str, Any]]:
    """What a device may: read its own two topics, publish below its own uplink, and nothing else."""
    for topic in (topics.inbox(client), topics.frames_down(client)):
        for kind in ("subscribeLiteral", "unsubscribeLiteral", "publishClientReceive"):
            yield {"acltype": kind, "topic": topic.decode(), "allow": True}
    for topic in (topics.frames_up(client), topics.own_to(client, "+")):
        yield {"acltype": "publishClientSend", "topic": topic.decode(), "allow": True}
