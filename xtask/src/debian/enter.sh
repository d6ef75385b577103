#!/bin/sh
# enter.sh ROOT TOOLCHAINS DIRECTORY COMMAND...
# Runs a command in the chroot ROOT, in DIRECTORY if that is there, with this machine's TOOLCHAINS where they are here, which nobody
# can write to. Run in a mount namespace of its own (unshare), with which the mounts end.
set -e
root=$1 toolchains=$2 directory=$3
shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ -d "$root$toolchains" ]; then
    mount --bind "$toolchains" "$root$toolchains"
    mount -o remount,bind,ro "$root$toolchains"
fi
[ -d "$root$directory" ] || directory=/
exec chroot "$root" sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
