# What the host's tests have a guest do (sourced by its init). It reports as crate `realm-report` says.
# Words of the command line: nonce=HEX, checks=CPUS, secret=1, or end=HOW.
for word in $(cat /proc/cmdline); do
    case "$word" in
    nonce=*) nonce=${word#nonce=} ;;
    checks=*) cpus=${word#checks=} ;;
    end=*) end=${word#end=} ;;
    secret=*) secret=${word#secret=} ;;
    esac
done

checks=0
# check NAME STATUS FOUND
check() {
    checks=$((checks + 1))
    if [ "$2" = 0 ]; then echo "@ok guest $1"; else echo "@bad guest $1: $3"; fi
}
# equal NAME FOUND EXPECTED
equal() {
    [ "$2" = "$3" ]
    check "$1" $? "$2, not $3"
}
# ticks CPU: its timer interrupts so far.
ticks() { awk -v column=$(($1 + 2)) '/arch_timer/ { print $column }' /proc/interrupts; }

if [ -n "$cpus" ]; then
    echo "@begin guest"
    equal realm "$rsi" 1.0
    # Backwards: not what the host wrote.
    echo "nonce $(echo "$nonce" | rev)"
    equal cpus "$(nproc)" "$cpus"

    echo "@state guest timers"
    cpu=0
    while [ $cpu -lt "$cpus" ]; do
        before=$(ticks $cpu)
        taskset -c $cpu sh -c 'i=0; while [ $i -lt 3 ]; do usleep 20000; i=$((i + 1)); done'
        [ "$(ticks $cpu)" -gt "$before" ]
        check timer-$cpu $? "$before interrupts as before"
        cpu=$((cpu + 1))
    done
    cpu=1
    while [ $cpu -lt "$cpus" ]; do
        echo "@state guest CPU $cpu off and on"
        file=/sys/devices/system/cpu/cpu$cpu/online
        echo 0 > $file
        equal cpu$cpu-off "$(cat $file)" 0
        echo 1 > $file
        equal cpu$cpu-on "$(cat $file)" 1
        cpu=$((cpu + 1))
    done

    echo "@state guest sleep"
    before=$(date +%s)
    sleep 5
    slept=$(($(date +%s) - before))
    [ $slept -ge 5 ] && [ $slept -le 8 ]
    check sleep $? "$slept s"

    echo "@state guest memory"
    # As much as is free, but for what the kernel needs to go on: other content in each MiB, read back when all is there.
    mkdir -p /fill && mount -t tmpfs -o size=95% none /fill
    yes "$nonce" | head -c 1048576 > /tmp/seed
    part() { echo "part $1"; cat /tmp/seed; }
    parts=$(awk '/^MemAvailable/ { print int($2 / 1024) - 24 }' /proc/meminfo)
    part=0
    while [ $part -lt "$parts" ] && part $part > /fill/$part; do part=$((part + 1)); done
    equal written "$part" "$parts"
    part=0
    while [ $part -lt "$parts" ] && [ "$(md5sum < /fill/$part)" = "$(part $part | md5sum)" ]; do
        part=$((part + 1))
    done
    equal read-back "$part" "$parts"
    rm -r /fill/*

    echo "@state guest token"
    # A challenge has 64 bytes: those of the nonce, twice.
    printf '%s' "$nonce$nonce" | sed 's/../\\x&/g' | xargs -0 printf > /tmp/challenge
    token /tmp/challenge > /tmp/token
    od -An -v -tx1 /tmp/token | tr -d ' \n' | fold -w 120 | sed 's/^/token /'
    echo
    [ -s /tmp/token ]
    check token $? "none"
    complaints=$(dmesg | grep -m 1 "WARNING:\|BUG:\|Unable to handle\|Call trace:\|Oops\|SError\|rcu: INFO")
    equal complaints "$complaints" ""
    echo "@end guest $checks"
fi
if [ -n "$secret" ]; then
    # What the host can work out only from a word it does not know by heart.
    secret=$(printf '%s' "$nonce" | sha256sum | cut -c1-32)
    mkdir -p /fill && mount -t tmpfs -o size=90% none /fill
    yes "$secret" | head -c 8388608 > /fill/secret
    echo "secret kept"
    read -r line
    echo "secret shown: $secret"
    read -r line
fi
case "$end" in
[0-9]*) verdict=$end ;;
panic) echo c > /proc/sysrq-trigger ;;
reset) reboot -f ;;
esac
