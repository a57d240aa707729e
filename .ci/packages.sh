#!/bin/sh
# sh .ci/packages.sh: the Debian packages that the tests need.
#   fiu-utils   fiu-run and the library that makes fdatasync fail (tests/faults)
#   curl        runs the examples of the documentation (tests/docs)
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh
command -v fiu-run >/dev/null || apt_install fiu-utils
command -v curl >/dev/null || apt_install curl
