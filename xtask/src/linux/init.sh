#!/bin/busybox sh
# The first program of a Linux that is the payload: checks what firmware owes a stock kernel, then powers off.
busybox() { /bin/busybox "$@"; }
busybox mkdir -p /proc /sys /dev /tmp
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
# Messages of the kernel would cut the lines of the report in two.
busybox dmesg -n 1

checks=0
# check NAME STATUS FOUND
check() {
    checks=$((checks + 1))
    if [ "$2" = 0 ]; then echo "@ok linux $1"; else echo "@bad linux $1: $3"; fi
}
# equal NAME FOUND EXPECTED
equal() {
    [ "$2" = "$3" ]
    check "$1" $? "$2, not $3"
}
# said NAME PATTERN: a line the kernel must have printed
said() {
    busybox dmesg | busybox grep -q "$2"
    check "$1" $? "no line with $2"
}
online() { busybox cat /sys/devices/system/cpu/online; }

echo "@begin linux"
busybox uname -a
said el2 "All CPU(s) started at EL2"
said psci "psci: PSCIv1.1 detected in firmware"
said smccc "SMC Calling Convention v1.3"
said no-trusted-os "psci: Trusted OS migration not required"
said kvm "kvm .*: VHE mode initialized successfully"
if [ "$CHECK_CPUS" = 1 ]; then all=0; else all=0-$((CHECK_CPUS - 1)); fi
equal cpus "$(online)" "$all"

echo "@state linux memory"
total=$(busybox awk '/^MemTotal/ { print $2 }' /proc/meminfo)
[ "$total" -gt $((CHECK_MIB * 1024 * 9 / 10)) ] && [ "$total" -lt $((CHECK_MIB * 1024)) ]
check memory $? "$total kB of $CHECK_MIB MiB"
busybox grep -q "^ *40100000-418fffff : reserved" /proc/iomem
check rmm-reserved $? "$(busybox grep 40100000 /proc/iomem)"
# Much of the memory, written and read: none of it belongs to another world.
fill=$((CHECK_MIB / 2))
[ "$fill" -gt 512 ] && fill=512
busybox mount -t tmpfs -o size=80% none /tmp
busybox dd if=/dev/zero of=/tmp/fill bs=1M count=$fill 2> /tmp/dd
check fill $? "$(busybox tail -n 1 /tmp/dd)"
busybox cat /tmp/fill > /dev/null
check read-back $? "not readable"
busybox rm -f /tmp/fill

cpu=1
while [ "$cpu" -lt "$CHECK_CPUS" ]; do
    for round in 1 2; do
        echo "@state linux CPU $cpu off and on, round $round"
        file=/sys/devices/system/cpu/cpu$cpu/online
        echo 0 > $file
        check "cpu$cpu-off-$round" $? "refused"
        equal "cpu$cpu-is-off-$round" "$(busybox cat $file)" 0
        echo 1 > $file
        check "cpu$cpu-on-$round" $? "refused"
        equal "cpu$cpu-is-on-$round" "$(busybox cat $file)" 1
    done
    cpu=$((cpu + 1))
done

echo "@state linux time"
before=$(busybox date +%s)
busybox sleep 1
[ "$(busybox date +%s)" -gt "$before" ]
check time $? "stands still"
for file in /sys/devices/system/cpu/vulnerabilities/*; do
    [ -n "$(busybox cat "$file")" ]
    check "vulnerability-${file##*/}" $? "not readable"
done
complaints=$(busybox dmesg | busybox grep -m 1 "WARNING:\|BUG:\|Unable to handle\|Call trace:\|Oops\|SError\|rcu: INFO")
equal complaints "$complaints" ""
echo "@end linux $checks"
busybox poweroff -f
