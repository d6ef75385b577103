#!/bin/busybox sh
# The first program of the default guest: says what it sees, and gives a shell. When that ends the machine is turned off.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux PS1='realm# '
dmesg -n 1

# What the kernel has to attest a realm with.
for module in /modules/*.ko; do insmod "$module" 2> /dev/null; done
mount -t configfs none /sys/kernel/config 2> /dev/null

# token FILE: an attestation token for the 64 bytes in FILE.
token() {
    report=/sys/kernel/config/tsm/report/$$
    mkdir "$report" && cat "$1" > "$report/inblob" && cat "$report/outblob"
    rmdir "$report"
}
# The initial measurement is claim 44238 of the realm's part of a token: a string of 32 or 64 bytes.
rim() {
    head -c 64 /dev/zero > /tmp/zeros
    token /tmp/zeros | od -An -v -tx1 | tr -d ' \n' |
        sed -n 's/.*19acce5820\([0-9a-f]\{64\}\).*/\1/p; s/.*19acce5840\([0-9a-f]\{128\}\).*/\1/p'
}

rsi=$(dmesg | sed -n 's/.*RME: Using RSI version \(.*\)/\1/p')
if [ -n "$rsi" ]; then what="in a realm (RSI $rsi)"; else what="NOT in a realm"; fi
echo
echo "Linux $(uname -r) $what"
echo "$(nproc) CPUs, $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB of memory, up $(cut -d' ' -f1 /proc/uptime) s"
[ -n "$rsi" ] && echo "Initial measurement (RIM): $(rim)"
if [ -e /script.sh ]; then
    . /script.sh
else
    echo "\"exit\" or \"poweroff\" ends it."
    setsid -c sh -c 'exec sh -i < /dev/console > /dev/console 2>&1'
fi
# The machine's verdict, if there is one, goes to a port of its own.
if [ -n "$verdict" ]; then
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name")" = org.realmkit.verdict ] && echo "$verdict" > "/dev/$(basename "$(dirname "$name")")"
    done
fi
sync
poweroff -f
