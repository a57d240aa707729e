#!/bin/sh
# sh .ci/packages.sh: the Debian packages that the tests need.
#   fiu-utils   fiu-run and the library that makes fdatasync fail (tests/faults)
#   curl        runs the examples of the documentation (tests/docs)
#   mosquitto, mosquitto-clients, openssl      the broker, and stock clients of the endpoint
#   nodejs, npm     for MQTT.js, another stock client: tests/mqttjs, pinned by its lock file
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh
command -v fiu-run >/dev/null || apt_install fiu-utils
command -v curl >/dev/null || apt_install curl
if ! command -v mosquitto >/dev/null && ! [ -x /usr/sbin/mosquitto ]; then
    apt_install mosquitto
    # Debian starts it at once, on 1883, which is the gateway's
    { $as_root systemctl disable --now mosquitto || $as_root service mosquitto stop; } >/dev/null 2>&1 || true
fi
command -v mosquitto_rr >/dev/null || apt_install mosquitto-clients
command -v openssl >/dev/null || apt_install openssl
command -v node >/dev/null || apt_install nodejs
command -v npm >/dev/null || apt_install npm
if ! [ -e tests/mqttjs/node_modules/.package-lock.json ] ||
    [ tests/mqttjs/package-lock.json -nt tests/mqttjs/node_modules/.package-lock.json ]; then
    npm ci --prefix tests/mqttjs --no-audit --no-fund --ignore-scripts --loglevel=error >&2 ||
        fail "could not install MQTT.js"
    touch tests/mqttjs/node_modules/.package-lock.json
fi
