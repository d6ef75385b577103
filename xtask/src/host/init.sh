#!/bin/busybox sh
# The first program of the host: loads the module and runs what /realm.sh says, with the realm's console on one port to the outside,
# and tells on another how far it is. Lines there: "stage WHAT", "complaint LINE", "report JSON", "exit CODE".
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/

# port NAME: its device.
port() {
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name")" = "$1" ] && basename "$(dirname "$name")"
    done
}
report=/dev/$(port org.realmkit.report)
console=/dev/$(port org.realmkit.console)
tell() { echo "$*" > "$report"; }

dmesg -n 8
free_memory() { awk '/^MemFree/ { print $2 }' /proc/meminfo; }
# Lines of the kernel's that it writes when something of its own is wrong.
complaints() { dmesg | grep "WARNING:\|BUG:\|Unable to handle\|Call trace:\|Oops\|SError\|rcu: INFO\|kvm-realm: .*lost\|hung task"; }

end() {
    complaints | while read -r line; do tell "complaint $line"; done
    tell "exit $1"
    sync
    poweroff -f
}

tell "stage module"
if ! insmod /kvm-realm.ko; then
    dmesg | tail -n 3
    end 1
fi
tell "version host $(uname -r)"
tell "version module $(dmesg | sed -n 's/.*kvm-realm: \(RMM .*\)/\1/p' | tail -n 1)"
before=$(free_memory)
tell "stage vmm"
# A port can be opened once at a time.
sh /realm.sh 2> /run/errors 0<> "$console" 1>&0
code=$?
while read -r line; do tell "error $line"; done < /run/errors
if [ -e /run/report.json ]; then tell "report $(tr -d '\n' < /run/report.json)"; fi
if [ -e /host.sh ]; then . /host.sh; fi
rmmod kvm-realm || tell "complaint kvm-realm cannot be unloaded"
tell "memory $before $(free_memory)"
end $code
