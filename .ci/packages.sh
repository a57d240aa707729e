#!/bin/sh
# sh .ci/packages.sh: the Debian packages that the tests need.
#   fiu-utils   fiu-run and the library that makes fdatasync fail (tests/faults)
#   curl        runs the examples of the documentation (tests/docs)
#   mosquitto, mosquitto-clients, openssl      the broker, and stock clients of the endpoint
#   nodejs, npm     for MQTT.js, another stock client: tests/mqttjs, pinned by its lock file
# and what the bench measures the gateway beside, where it can be had: nats-server, rabbitmq-server, Socket.IO
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# a service that Debian starts at once, on the port that is the gateway's, or for nobody
stop_services() {
    for service in "$@"; do
        { $as_root systemctl disable --now "$service" || $as_root service "$service" stop; } >/dev/null 2>&1 || true
    done
}

# peer <package> <what tells that it is there> [its services]: tests and bench leave out what is missing, and say so
peer() {
    package=$1 there=$2
    shift 2
    [ -e "$there" ] || (apt_install "$package" && stop_services "$@") || echo "going on without $package" >&2
}

# node_modules <folder>: as its lock file says; does nothing when it did it before
node_modules() {
    done=$1/node_modules/.package-lock.json
    if [ -e "$done" ] && ! [ "$1/package-lock.json" -nt "$done" ]; then
        return 0
    fi
    npm ci --prefix "$1" --no-audit --no-fund --ignore-scripts --loglevel=error >&2 && touch "$done"
}

command -v fiu-run >/dev/null || apt_install fiu-utils
command -v curl >/dev/null || apt_install curl
if ! command -v mosquitto >/dev/null && ! [ -x /usr/sbin/mosquitto ]; then
    apt_install mosquitto
    stop_services mosquitto
fi
command -v mosquitto_rr >/dev/null || apt_install mosquitto-clients
command -v openssl >/dev/null || apt_install openssl
command -v node >/dev/null || apt_install nodejs
command -v npm >/dev/null || apt_install npm
node_modules tests/mqttjs || fail "could not install MQTT.js"
peer nats-server /usr/sbin/nats-server nats-server
peer rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server epmd.socket epmd
node_modules bench/peers/socketio || echo "going on without Socket.IO" >&2
