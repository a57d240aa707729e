#!/bin/sh
# sh .ci/venv.sh <lock file>: .venv holds what the lock file names, hash-checked, and the project itself.
# Does nothing when it did it before.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh
lock=$1

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        found=$(command -v "$name") || continue
        "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        echo "$found"
        return
    done
    fail "bot-gateway needs Python 3.11 or newer; found $(python3 --version 2>/dev/null || echo none)."
}

make_venv() {
    python=$(find_python)
    # Debian keeps ensurepip in a package of its own
    has_venv='import ensurepip, venv; ensurepip.version()'
    if ! "$python" -c "$has_venv" 2>/dev/null; then
        apt_install "$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
        "$python" -c "$has_venv" 2>/dev/null || fail "$python cannot make virtual environments; install its venv package."
    fi
    echo "making .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv
    pwd >.venv/.place
}

# An environment whose interpreter is gone, or that was copied from elsewhere, is made anew.
[ "$(cat .venv/.place 2>/dev/null)" = "$(pwd)" ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv

stamp=.venv/.done-$lock
wanted=$(cat "$lock" requirements-build.lock pyproject.toml | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0

pip() {
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip --quiet "$@"
}
echo "installing $lock" >&2
# what builds is installed first, hash-checked like the rest: the project itself, and the one package that comes as
# source only (http-ece, of pywebpush)
pip install --require-hashes --only-binary :all: -r requirements-build.lock &&
    pip install --require-hashes --only-binary :all: --no-binary http-ece --no-build-isolation -r "$lock" ||
    fail "could not install $lock; is the package index reachable?"
pip install --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
