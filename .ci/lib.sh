# What venv.sh and packages.sh share. Sourced.

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# Install Debian packages as root or by sudo; says what is missing where neither can be.
apt_install() {
    command -v apt-get >/dev/null || fail "missing: $*. This machine has no apt-get; install what these Debian packages hold."
    if [ "$(id -u)" = 0 ]; then
        as_root="env"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root="sudo env"
    else
        fail "missing Debian packages: $*. As root: apt-get install $*"
    fi
    echo "installing Debian packages: $*" >&2
    apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
    # on a fresh machine there is no package list yet
    $apt install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { $apt update >/dev/null && $apt install -y --no-install-recommends "$@" >/dev/null; } ||
        fail "could not install Debian packages: $*"
}
