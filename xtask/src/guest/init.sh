#!/bin/busybox sh
# The first program of the default guest: says what it sees, and gives a shell. When that ends the machine is turned off.
/bin/busybox mkdir -p /proc /sys /dev /run
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux PS1='realm# '
dmesg -n 1

rsi=$(dmesg | sed -n 's/.*RME: Using RSI version \(.*\)/\1/p')
if [ -n "$rsi" ]; then what="in a realm (RSI $rsi)"; else what="NOT in a realm"; fi
echo
echo "Linux $(uname -r) $what"
echo "$(nproc) CPUs, $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB of memory, up $(cut -d' ' -f1 /proc/uptime) s"
# A script for the guest, if its command line names one: what it returns is the machine's verdict.
for word in $(cat /proc/cmdline); do
    case "$word" in
    realmkit.script=*) script=${word#realmkit.script=} ;;
    esac
done
if [ -n "$script" ]; then
    sh "$script"
else
    echo "\"exit\" or \"poweroff\" ends it."
    setsid -c sh -c 'exec sh -i < /dev/console > /dev/console 2>&1'
fi
sync
poweroff -f
