#!/bin/sh
# Puts the plugins and the cnm command into a host's directories, or takes them away again.
#
#   install.sh install      the default
#   install.sh uninstall    what is ours goes, what it had replaced comes back
#   install.sh check        succeeds if the plugins are as they were installed
#   install.sh run          install, and wait to be ended: for containers
#
# Variables, with their defaults:
#   CNI_BIN=/opt/cni/bin    where runtimes look for plugins
#   PREFIX=/usr/local       cnm goes into its bin and lib; empty: without cnm
#   DESTDIR=                before both of them
#   SOURCE=                 what to install: a directory with bin and lib; the script's own
#   UNIT=                   the agent's unit for systemd; beside bin and lib
#   CNM_REMOVE_ON_EXIT=     true: `run` uninstalls when it is ended by a signal
#
# A name is replaced by one rename, so that a runtime can go on calling it: it is the old
# file or the new one, and never a part. CNI_BIN/.cnm/sums has the checksums of what is ours,
# written before anything is put in place, and CNI_BIN/.cnm/before the files of others that
# we replaced. Whatever a kill leaves, the next install or uninstall completes.
#
# For any POSIX shell with the commands of busybox.
set -eu
umask 022

source=${SOURCE:-$(cd "$(dirname "$0")" && pwd)}
unit=${UNIT:-$source/cnm-agent.service}
bin=${DESTDIR:-}${CNI_BIN:-/opt/cni/bin}
prefix=${PREFIX-/usr/local}
prefix=${prefix:+${DESTDIR:-}$prefix}
record=$bin/.cnm

# ours NAME: whether this plugin is as we put it there.
ours() {
    [ -f "$bin/$1" ] && [ ! -L "$bin/$1" ] && [ -e "$record/sums" ] || return 1
    grep -qxF "$(cd "$bin" && sha256sum "$1")" "$record/sums"
}

# names FILE: the plugins that it has checksums of.
names() {
    sed 's/^[0-9a-f]*  //' "$1" | sort -u
}

# withdraw NAME: remove our plugin; what it replaced comes back.
withdraw() {
    if ! ours "$1"; then
        [ ! -e "$bin/$1" ] || echo "$bin/$1: not ours, it stays" >&2
    elif [ -e "$record/before/$1" ] || [ -L "$record/before/$1" ]; then
        mv -fT "$record/before/$1" "$bin/$1"
        echo "$bin/$1: as it was before"
    else
        rm -f "$bin/$1"
        echo "$bin/$1: removed"
    fi
}

install_plugins() {
    mkdir -p "$record/before"
    rm -rf "$record"/new.*
    new=$(mktemp -d "$record/new.XXXXXX")
    # One cp for all, so that names of one file stay names of one file.
    cp -a "$source/bin/." "$new"
    rm -f "$new/cnm"
    chown -h 0:0 "$new"/*
    chmod 0755 "$new"/*
    sync "$new"/*
    (cd "$new" && sha256sum -- *) > "$record/now"
    [ -e "$record/sums" ] || : > "$record/sums"
    cat "$record/sums" "$record/now" > "$record/both"
    mv -fT "$record/both" "$record/sums"
    for file in "$new"/*; do
        name=${file##*/}
        if [ -e "$bin/$name" ] || [ -L "$bin/$name" ]; then
            ours "$name" || ln -f "$bin/$name" "$record/before/$name"
        fi
        mv -fT "$file" "$bin/$name"
        echo "$bin/$name"
    done
    # What an older version had and this one has not.
    names "$record/sums" | while read -r name; do
        [ -e "$source/bin/$name" ] || withdraw "$name"
    done
    mv -fT "$record/now" "$record/sums"
    rm -rf "$new"
}

uninstall_plugins() {
    [ -e "$record/sums" ] || return 0
    names "$record/sums" | while read -r name; do
        withdraw "$name"
    done
    rm -rf "$record"
}

install_command() {
    mkdir -p "$prefix/bin" "$prefix/lib/systemd/system"
    rm -rf "$prefix/lib"/.cnm.*
    new=$(mktemp -d "$prefix/lib/.cnm.XXXXXX")
    cp -a "$source/lib/cnm" "$new/new"
    chown -hR 0:0 "$new/new"
    ln -s ../lib/cnm/cnm "$new/link"
    sed "1d;s:@PREFIX@:${prefix#"${DESTDIR:-}"}:" "$unit" > "$new/unit"
    chmod 0644 "$new/unit"
    [ ! -e "$prefix/lib/cnm" ] || mv -T "$prefix/lib/cnm" "$new/old"
    mv -T "$new/new" "$prefix/lib/cnm"
    mv -fT "$new/link" "$prefix/bin/cnm"
    mv -fT "$new/unit" "$prefix/lib/systemd/system/cnm-agent.service"
    rm -rf "$new"
    echo "$prefix/lib/systemd/system/cnm-agent.service"
    echo "$prefix/bin/cnm"
}

uninstall_command() {
    if [ "$(readlink "$prefix/bin/cnm")" = ../lib/cnm/cnm ]; then
        # The link last: it is what says that the others are ours.
        rm -f "$prefix/lib/systemd/system/cnm-agent.service"
        rm -rf "$prefix/lib/cnm"
        rm -f "$prefix/bin/cnm"
        echo "$prefix/bin/cnm: removed"
    fi
    rm -rf "$prefix/lib"/.cnm.*
}

# refuse_foreign: ends where cnm would take the place of somebody else's, or is not to be had.
refuse_foreign() {
    if [ ! -e "$source/lib/cnm/cnm" ]; then
        echo "$source/lib/cnm: there is no cnm; say PREFIX= for the plugins alone" >&2
        exit 1
    fi
    # By the link all of it is ours; a first install that was killed has left lib/cnm alone.
    [ "$(readlink "$prefix/bin/cnm")" != ../lib/cnm/cnm ] || return 0
    for each in "$prefix/bin/cnm" "$prefix/lib/cnm"; do
        if [ -e "$each" ] && [ ! -e "$each/cnm" ]; then
            echo "$each: not ours; move it away, or choose another PREFIX" >&2
            exit 1
        fi
    done
}

install() {
    [ -z "$prefix" ] || refuse_foreign
    install_plugins
    [ -z "$prefix" ] || install_command
}

uninstall() {
    uninstall_plugins
    [ -z "$prefix" ] || uninstall_command
}

end() {
    [ -z "${sleeping:-}" ] || kill "$sleeping"
    [ "${CNM_REMOVE_ON_EXIT:-}" != true ] || uninstall
    exit 0
}

check() {
    if ! (cd "$bin" && sha256sum -c "$record/sums") >&2; then
        echo "$bin: not as it was installed: run $0 install" >&2
        exit 1
    fi
}

run() {
    trap end TERM INT
    install
    while :; do
        # `wait` ends at a signal, and sleep would not.
        sleep 1000000 &
        sleeping=$!
        wait "$sleeping"
    done
}

case ${1:-install} in
    install | uninstall | check | run) "${1:-install}" ;;
    *)
        echo "usage: $0 [install | uninstall | check | run]; the head of this file says more" >&2
        exit 2
        ;;
esac
