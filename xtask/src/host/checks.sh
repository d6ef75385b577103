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
