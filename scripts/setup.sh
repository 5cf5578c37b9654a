#!/bin/sh
# Build the environment that the Makefile's commands run in; does nothing when it stands already.
# With the word "servers": install the programs that tests and benchmarks start.
# With the word "celery": build the environment of the Celery that aiotq is tested against, .venv-celery.
# With the word "docs": build the environment that makes the documentation site, .venv-docs.
# With the word "peers": build the environment of the task queues that aiotq is measured beside, .venv-peers.
#
#   PYTHON  interpreter to build on; empty: python3, or the newest of python3.13 to python3.11 when that is too old
#   VENV    where to build it; empty: .venv
set -eu
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
stamp=$venv/.installed-from # the tree and the interpreter it was built for, then pyproject.toml as it was

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

main() {
    choose_python
    place="$(pwd) on Python $python_is"
    if [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$place" ] || [ ! -x "$venv/bin/python" ]; then
        make_venv
    elif { echo "$place"; cat pyproject.toml; } | cmp -s - "$stamp"; then
        return
    fi
    say "installing aiotq and its development tools into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
    { echo "$place"; cat pyproject.toml; } >"$stamp"
}

# The Celery that interoperability is tested against, its monitor, and what it needs for results in SQL; what its users have, and no dependency of ours.
celery_wanted='celery[redis]==5.7.0 flower==2.2.0 sqlalchemy==2.0.46 psycopg[binary]==3.3.9 pymysql==1.2.4'

install_celery() {
    # shellcheck disable=SC2086  # one word a package
    install_into .venv-celery $celery_wanted
}

# The task queues that aiotq is measured beside: the newest of each that go together; raising one is a commit.
peers_wanted='celery[redis]==5.7.0 dramatiq[rabbitmq,redis]==2.2.1 taskiq==0.13.0 taskiq-redis==1.2.4
    taskiq-pipelines==0.1.4 taskiq-aio-pika==0.6.1 hiredis==3.5.0'

install_peers() {
    # shellcheck disable=SC2086  # one word a package
    install_into .venv-peers $peers_wanted
}

# What makes the documentation site; ruff lays out the signatures in it.
docs_wanted='zensical==0.0.73 mkdocstrings-python==2.0.11 ruff~=0.17.5'

install_docs() {
    # shellcheck disable=SC2086  # one word a package
    install_into .venv-docs $docs_wanted
}

# An environment of its own for other people's packages, pinned; again only when they, this place or Python changed.
install_into() {
    choose_python
    venv=$1
    shift
    stamp=$venv/.installed-from
    made_for="$* in $(pwd) on Python $python_is"
    [ "$(cat "$stamp" 2>/dev/null)" != "$made_for" ] || return 0
    make_venv
    say "installing $* into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
    echo "$made_for" >"$stamp"
}

choose_python() {
    tried=
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if python_is=$("$python" -c "$describe_if_new_enough" 2>/dev/null); then
            return
        fi
        version=$("$python" --version 2>/dev/null) || version="not found"
        tried="$tried, $python ($version)"
    done
    die "aiotq needs Python 3.11 or newer. Tried${tried#,}." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
}

describe_if_new_enough='
import sys
if sys.version_info < (3, 11):
    sys.exit(1)
print("%d.%d.%d in %s" % (sys.version_info[:3] + (sys.base_prefix,)))
'

make_venv() {
    if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv is there and is no virtual environment: move it away, or choose another place with VENV="
    fi
    has_ensurepip || install_ensurepip
    say "building $venv on Python $python_is"
    "$python" -m venv --clear "$venv"
}

has_ensurepip() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

# Debian and Ubuntu keep ensurepip, without which a virtual environment has no pip, in a package of its own.
install_ensurepip() {
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    command -v apt-get >/dev/null ||
        die "$python has no ensurepip and there is no apt-get: install what your system calls $package"
    apt_install "$package" ||
        die "$package could not be installed: do it by hand, or name another interpreter with PYTHON="
    has_ensurepip || die "$package is installed, but $python still has no ensurepip: name another with PYTHON="
}

# The servers, the browser and the terminal that tests and benchmarks start for themselves. They need the programs, not a service.
install_servers() {
    missing=
    command -v redis-server >/dev/null || missing=" redis-server"
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$missing rabbitmq-server"
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
    command -v memcached >/dev/null || missing="$missing memcached"
    [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
    [ -x /usr/sbin/mariadbd ] || missing="$missing mariadb-server"
    command -v chromium >/dev/null || missing="$missing chromium"
    command -v tmux >/dev/null || missing="$missing tmux"
    command -v valgrind >/dev/null || missing="$missing valgrind"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null ||
        die "the tests start servers of their own; not here:$missing, and no apt-get: install them by hand"
    package=$missing
    # A policy of "don't start" keeps the packages from starting services that nobody asked for.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod +x "$policy" && made=yes
    fi
    failed=
    for package in $missing; do
        apt_install "$package" || failed="$failed $package"
    done
    [ -z "$made" ] || as_root rm -f "$policy"
    [ -z "$failed" ] || die "could not be installed:$failed. Do it by hand"
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ||
        die "rabbitmq-server is installed, but not in /usr/lib/rabbitmq, where the tests look for it"
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
        die "postgresql is installed, but not in /usr/lib/postgresql, where the tests look for it"
}

apt_install() {
    say "installing $1"
    as_root apt-get -qq update || say "apt-get update failed: going on with the package lists that are here"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=120 install --no-install-recommends -y "$1" >/dev/null
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "neither root nor sudo here: have somebody install $package"
    fi
}

case "${1:-}" in
servers) install_servers ;;
celery) install_celery ;;
peers) install_peers ;;
docs) install_docs ;;
*) main ;;
esac
