// A device with MQTT.js, as a process: options, then commands, as lines of stdin; events on stdout (process.py).

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const mqtt = createRequire(new URL("../mqttjs/package.json", import.meta.url))("mqtt");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const options = JSON.parse((await lines.next()).value);
const five = options.version === 5;

const tell = (e, fields) => process.stdout.write(JSON.stringify({ e, ...fields }) + "\n");

// leaves out what is not set, and everything where there are no properties
function properties(named) {
  if (!five) return undefined;
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined && value !== null));
}

const pairs = (user) =>
  Object.entries(user ?? {}).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));

function grouped(user) {
  if (!user.length) return undefined;
  const out = {};
  for (const [name, value] of user) (out[name] ??= []).push(value);
  return out;
}

const secure = options.ca ? "s" : "";
const { will } = options;
let byHand = false;
// packet id -> what acks it: MQTT.js reads the next message only then
const held = new Map();

const client = mqtt.connect({
  protocol: (options.path ? "ws" : "mqtt") + secure,
  host: options.host,
  port: options.port,
  path: options.path,
  ca: options.ca ? readFileSync(options.ca) : undefined,
  protocolVersion: options.version,
  clientId: options.client,
  username: options.username,
  password: options.password,
  clean: options.clean,
  keepalive: options.keepalive,
  reconnectPeriod: options.reconnect ? 100 : 0,
  autoAssignTopicAlias: options.aliases,
  properties: properties({
    sessionExpiryInterval: options.expiry,
    receiveMaximum: options.receive_maximum,
    maximumPacketSize: options.max_packet,
    requestResponseInformation: options.ask_response || undefined,
  }),
  will: will && {
    topic: will.topic,
    payload: will.payload,
    qos: will.qos,
    properties: properties({ willDelayInterval: will.delay }),
  },
  // called with MQTT 5 only, and before "message"
  customHandleAcks(topic, payload, packet, done) {
    if (byHand) {
      show(topic, payload, packet);
      held.set(packet.messageId, done);
    } else {
      done(0);
    }
  },
});
if (!five) {
  // called after "message"
  client.handleMessage = (packet, done) => (byHand ? held.set(packet.messageId, () => done()) : done());
}

function show(topic, payload, packet) {
  const props = packet.properties ?? {};
  tell("message", {
    topic,
    payload: payload.toString(),
    qos: packet.qos,
    dup: packet.dup,
    retain: packet.retain,
    mid: packet.messageId,
    user: pairs(props.userProperties),
    response: props.responseTopic ?? null,
    correlation: props.correlationData?.toString() ?? null,
    expiry: props.messageExpiryInterval ?? null,
    content: props.contentType ?? null,
  });
}

function subscribe(topic, qos) {
  client.subscribe(topic, { qos }, (error, granted, packet) => {
    const codes = packet?.granted ?? [error?.code ?? granted[0].qos];
    tell("subscribed", { codes, why: packet?.properties?.reasonString ?? "" });
  });
}

client.once("connect", () => options.subscribe.forEach(([topic, qos]) => subscribe(topic, qos)));
client.on("message", (topic, payload, packet) => (byHand && five) || show(topic, payload, packet));

let last = null; // the DISCONNECT
client.on("packetreceive", (packet) => {
  if (packet.cmd === "connack" && !(packet.reasonCode || packet.returnCode)) {
    tell("connected", { present: packet.sessionPresent, response: packet.properties?.responseInformation ?? null });
  } else if (packet.cmd === "connack") {
    tell("refused", { code: packet.reasonCode || packet.returnCode, why: packet.properties?.reasonString ?? "" });
  } else if (packet.cmd === "disconnect") {
    last = packet;
  } else if (packet.cmd === "pingresp") {
    tell("pong", {});
  }
});
client.on("close", () => {
  tell("closed", { code: last?.reasonCode ?? null, reference: last?.properties?.serverReference ?? null });
  last = null;
});
client.on("error", (error) => tell("error", { why: `${error}` }));

const commands = {
  publish(it) {
    const settings = {
      qos: it.qos,
      retain: it.retain,
      properties: properties({
        userProperties: grouped(it.user),
        responseTopic: it.response,
        correlationData: it.correlation ? Buffer.from(it.correlation) : undefined,
        messageExpiryInterval: it.expiry,
      }),
    };
    client.publish(it.topic, Buffer.from(it.payload, "base64"), settings, (error, packet) => {
      const why = packet?.properties?.reasonString ?? "";
      tell("puback", { ref: it.ref, code: error ? (error.code ?? `${error}`) : 0, why });
    });
  },
  subscribe: (it) => subscribe(it.topic, it.qos),
  unsubscribe: (it) => client.unsubscribe(it.topic, () => tell("unsubscribed", {})),
  by_hand() {
    byHand = true;
    tell("by_hand", {});
  },
  ack(it) {
    const done = held.get(it.mid);
    held.delete(it.mid);
    done(it.code ?? 0);
  },
  disconnect(it) {
    const packet = five ? { reasonCode: it.code, properties: properties({ sessionExpiryInterval: it.expiry }) } : {};
    client.end(false, packet);
  },
};

for await (const line of lines) {
  const command = JSON.parse(line);
  commands[command.do](command);
}
