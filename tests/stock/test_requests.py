"""Request and response of MQTT 5: the response topic and the correlation data go there and come back."""

import json

import pytest

from tests.stock.door import Door, Endpoint, fresh, inbox, uplink
from tests.stock.programs import Message, Mosquitto, Program, Script, mosquitto, spoken
from tests.support.raw import RawClient

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("program", ["paho", "mqttjs"])
async def test_mosquitto_rr_asks_a_device(door: Door, program: Program) -> None:
    asking, answering = await door.device("asking"), await door.device("answering")
    async with Script(program, door.subscribed(5, answering)) as device:
        await device.event("subscribed")
        question = Message(
            topic=uplink(asking, answering), payload=b'{"what":"temperature"}', correlation="q-17"
        )
        line = mosquitto("mosquitto_rr", door.options(5, asking, clean=True, expiry=None))
        async with Mosquitto(*line, *spoken(question), "-e", inbox(asking), "-F", "%j") as rr:
            got = await device.event("message")
            assert json.loads(got["payload"]) == {"what": "temperature"}
            assert (got["response"], got["correlation"]) == (door.replies(answering, asking), "q-17")
            answer = Message(topic=got["response"], payload=b"21.5", correlation=got["correlation"])
            assert (await device.publish(answer))["code"] == 0
            reply = await rr.event("message")
            assert await rr.ended() == 0, rr.told()
    assert (reply["payload"], reply["correlation"]) == ("21.5", "q-17")


@pytest.mark.parametrize("program", ["paho", "mqttjs"])
async def test_a_device_asks_a_bot_and_is_asked(door: Door, program: Program) -> None:
    client = await door.device("device")
    bot = RawClient(fresh("bot"))
    await bot.connect(door.gateway.ws, door.gateway.token(bot.client))
    async with Script(program, door.subscribed(5, client, ask_response=True)) as device:
        connected = await device.event("connected")
        if program == "mqttjs" and isinstance(door, Endpoint):
            # the response information of the CONNACK
            assert connected["response"] == inbox(client)
        question = Message(
            topic=uplink(client, bot.client), payload=b'"?"', response=inbox(client), correlation="c-1"
        )
        await device.publish(question)
        (asked,) = await bot.step()
        assert (asked["body"], asked["reply_to"]) == ("?", client)
        back = {"to": client, "body": "!", "correlation": asked["correlation"], "reply_to": bot.client}
        await bot.send({"t": "pub", "m": [{"ref": "1", **back}]})
        got = await device.event("message")
        assert (got["payload"], got["correlation"]) == ("!", "c-1")
        assert got["response"] == door.replies(client, bot.client)
    await bot.drop()


@pytest.mark.parametrize("program", ["paho", "mqttjs"])
async def test_a_response_goes_to_the_one_who_asks(endpoint: Endpoint, program: Program) -> None:
    client = fresh("device")
    async with Script(program, endpoint.options(5, client)) as device:
        await device.event("connected")
        message = Message(topic=uplink(client, "nobody"), payload=b"1", response=inbox("another"))
        answer = await device.publish(message)
        assert (answer["code"], "your own inbox" in answer["why"]) == (0x90, True)
