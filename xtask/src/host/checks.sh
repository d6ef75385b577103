# What the host's tests have a host do when the first realm is gone (sourced by its init). It reports as crate `realm-report` says.
checks=0
# check NAME STATUS FOUND
check() {
    checks=$((checks + 1))
    if [ "$2" = 0 ]; then tell "said @ok host $1"; else tell "said @bad host $1: $3"; fi
}
# equal NAME FOUND EXPECTED
equal() {
    [ "$2" = "$3" ]
    check "$1" $? "$2, not $3"
}
counter() { cat /sys/class/misc/kvm-realm/counters/"$1"; }
# Nothing of a realm is left with the RMM.
all_back() {
    equal "$1-back" "$(counter granules_undelegated)" "$(counter granules_delegated)"
    equal "$1-lost" "$(counter granules_lost)" 0
    equal "$1-unfinished" "$(counter unfinished_vms)" 0
}
# realm APPEND: another one of the same files.
realm() {
    exec /realm run --machine kvm --kernel /guest/kernel --initrd /guest/initrd --memory 192M --append "$1"
}

tell "said @begin host"
all_back first
cycle=1
while [ $cycle -le "$CYCLES" ]; do
    tell "said @state host cycle $cycle"
    (realm "quiet console=hvc0 swiotlb=4096 panic=-1") > /run/cycle < /dev/null 2>&1
    equal cycle-$cycle $? 0
    grep -q "in a realm" /run/cycle
    check cycle-$cycle-realm $? "$(tail -n 3 /run/cycle | tr '\n' ' ')"
    all_back cycle-$cycle
    cycle=$((cycle + 1))
done

# ends NAME APPEND CODE
ends() {
    tell "said @state host $1"
    (realm "quiet console=hvc0 swiotlb=4096 panic=-1 $2") > /run/cycle < /dev/null 2>&1
    equal "$1" $? "$3"
}
ends reset end=reset 3
ends panic end=panic 5
ends verdict end=42 42

# look NAME: reads all memory for the realm's secret; how often it is there, how many pages were read, and how many refused.
look() {
    tell "said @state host look $1"
    range=$(sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) : System RAM/\1 \2/p' /proc/iomem | tr '\n' ' ')
    set -- $range
    first=$1
    while [ $# -gt 1 ]; do last=$2; shift 2; done
    insmod /realm-peek.ko masked="$MASKED" base=0x"$first" end=$((0x$last + 1)) 2> /dev/null
    dmesg | sed -n 's/.*realm-peek: //p' | tail -n 1
}
mkfifo /run/keys
(realm "quiet console=hvc0 swiotlb=4096 panic=-1 nonce=$NONCE secret=1") < /run/keys > /run/secret 2>&1 &
process=$!
exec 3> /run/keys
until grep -q "secret kept" /run/secret; do
    kill -0 $process 2> /dev/null || break
    usleep 100000
done
while_kept=$(look kept)
echo >&3
until grep -q "secret shown" /run/secret; do
    kill -0 $process 2> /dev/null || break
    usleep 100000
done
while_shown=$(look shown)
echo >&3
wait $process
equal secret-realm $? 0
exec 3>&-
tell "said kept: $while_kept, shown: $while_shown"
set -- $while_kept
equal secret-kept "$2" 0
[ "$4" -gt 100000 ] && [ "$6" -gt 10000 ]
check secret-looked $? "$while_kept"
set -- $while_shown
[ "$2" -gt 0 ]
check secret-shown $? "$while_shown"

round=1
while [ $round -le "$KILLS" ]; do
    # Anywhere from before there is a VM to the guest's user space.
    after=$(($(od -An -N2 -tu2 /dev/urandom) * 100))
    tell "said @state host kill $round after $after us"
    (realm "quiet console=hvc0 swiotlb=4096 panic=-1") > /dev/null < /dev/null 2>&1 &
    process=$!
    usleep $after
    kill -9 $process
    wait $process 2> /dev/null
    # Its files are closed before it can be waited for.
    all_back kill-$round
    round=$((round + 1))
done
tell "said @end host $checks"
