#!/bin/sh
# What netd's unit does under a systemd that is process 1: each check is a function below, and its name, its output and its exit code go to the console.
# The units' exposure is at most this (`systemd-analyze security`): it may fall, and not rise; tests/tests/privileges.rs has it, too.
# Sandbox `web` serves port 80, published as 8080; a client on the other side of the uplink talks to it all the time.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec < /dev/null > /dev/console 2>&1
exposed=4.8 host=10.0.0.1 web=/run/netd/netns/web lan=/run/netns/lan

uptime() { cut -d' ' -f1 /proc/uptime; }
fail() { echo "$*"; exit 1; }
property() { systemctl show --property "$1" --value netd; }
mounted() { grep -q " $1 " /proc/1/mountinfo; }
echoed() { wc -l < /tmp/echoed; }
in_lan() { nsenter --net=$lan "$@"; }

eventually() { # WHAT COMMAND...
    what=$1
    shift
    for _ in $(seq 1200); do
        "$@" && return
        usleep 100000
    done
    fail "waited in vain for $what"
}

# A new connection is served.
answers() { [ "$(echo hello | in_lan timeout 10 nc $host 8080)" = hello ]; }

# The old one goes on.
further() { [ "$(echoed)" -ge "$wanted" ]; }
flows() {
    wanted=$(($(echoed) + 50))
    eventually "50 more lines of the stream" further
}

active() { [ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$1" ]; }

# What netd must give back.
host_state() {
    ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/qlen [0-9]*//'
    ip -o address | sed 's/^[0-9]*: //; s/valid_lft.*//'
    ip route
    grep -o ' /run/netd[^ ]* \| /sys/fs/bpf/[^ ]* ' /proc/1/mountinfo
    find /sys/fs/bpf /run/netd /var/lib/netd 2> /dev/null
    grep -rs '' /proc/sys/net/ipv4 /proc/sys/net/ipv6/conf | grep '/conf/\|/ip_' | sort
}

# Type=notify: `start` returns when the daemon has said READY=1, and then it serves. It lives in the host's own mount namespace.
start() {
    host_state > /tmp/before
    systemctl start netd || fail "not started"
    active 0 || fail "not active: $(property ActiveState)"
    [ "$(property Type)" = notify ] || fail "READY is not waited for"
    netd status > /dev/null || fail "ready, and does not serve"
    grep -q "NoNewPrivs:.1" "/proc/$(property MainPID)/status" || fail "new privileges are possible"
    grep -q "core file size *0 *0 " "/proc/$(property MainPID)/limits" || fail "core dumps are possible"
    [ "$(readlink /proc/1/ns/mnt)" = "$(readlink "/proc/$(property MainPID)/ns/mnt")" ] || fail "a mount namespace of its own"
}

sandbox() {
    netd network create --subnet 172.30.0.0/24 net > /dev/null || fail "no network"
    netd sandbox create --network net -p 8080:80 web > /dev/null || fail "no sandbox"
    mounted $web || fail "the sandbox's namespace is not seen outside the unit"
    nsenter --net=$web ip -4 address show | grep -q 172.30. || fail "the namespace has no address"
    nsenter --net=$web nc -ll -p 80 -e cat > /dev/null 2>&1 &
    echo $! > /tmp/server
    eventually "an answer" answers
    (
        n=0
        while [ ! -e /tmp/enough ]; do
            n=$((n + 1))
            echo $n
            usleep 10000
        done
        echo $n > /tmp/sent
    ) | in_lan nc $host 8080 > /tmp/echoed &
    eventually "a stream" test -s /tmp/echoed
}

restart() {
    old=$(property MainPID)
    systemctl restart netd || fail "not restarted"
    active "$old" || fail "not another process"
    mounted $web && flows && answers
}

kill9() {
    old=$(property MainPID)
    kill -9 "$old"
    flows
    eventually "systemd to start it again" active "$old"
    [ "$(property NRestarts)" -ge 1 ] || fail "not systemd's restart"
    eventually "an answer to commands" netd status > /dev/null
    [ "$(netd sandbox ls --format '{{.Name}}')" = web ] || fail "another sandbox: $(netd sandbox ls)"
    mounted $web && flows && answers
}

# A daemon that hangs is ended and started again; one that does not is left alone for longer than that takes.
hang() {
    mkdir -p /run/systemd/system/netd.service.d
    printf '[Service]\nWatchdogSec=15\n' > /run/systemd/system/netd.service.d/hang.conf
    systemctl daemon-reload && systemctl restart netd || fail "not restarted"
    old=$(property MainPID)
    sleep 30
    [ "$(property MainPID)" = "$old" ] || fail "ended, though it did not hang"
    kill -STOP "$old"
    flows
    eventually "systemd to end it and start another" active "$old"
    eventually "an answer to commands" netd status > /dev/null
    rm -r /run/systemd/system/netd.service.d
    systemctl daemon-reload && systemctl restart netd || fail "not restarted"
    mounted $web && flows && answers
}

stop() {
    systemctl stop netd || fail "not stopped"
    [ "$(property ActiveState)" = inactive ] || fail "still there"
    mounted $web || fail "the namespace went with the daemon"
    flows && answers
}

# The only connection that stays, and one that is asked about once and again by the same id (`NETD_OPERATION_ID`).
lasting() { netd flow ls --filter sandbox=web --format '{{.Source}} {{.SourcePort}} {{.State}}' | grep ' established$'; }
made_once() { NETD_OPERATION_ID=before-the-clock netd network create --subnet 172.30.1.0/24 once; }

# Ten years ahead of the right time and ten years behind it: nothing is old, nothing hangs, nothing is done twice.
clock() {
    pid=$(property MainPID) now=$(date +%s) decade=$((3653 * 86400))
    alone() { [ "$(lasting | wc -l)" = 1 ]; }
    eventually "the stream's flow alone" alone
    stream=$(lasting)
    once=$(made_once) || fail "no network"
    for time in $((now + decade)) $((now - decade)); do
        date -s @$time > /dev/null && [ $(($(date +%s) - time)) -lt 600 ] || fail "the clock cannot be set"
        flows && answers || fail "no connection in $(date +%Y)"
        lasting | grep -qx "$stream" || fail "the stream's flow has expired in $(date +%Y): $(netd flow ls)"
        [ "$(made_once)" = "$once" ] || fail "an operation was forgotten in $(date +%Y)"
        netd network create --subnet 172.30.2.0/24 dated > /dev/null || fail "no network in $(date +%Y)"
        netd network rm dated > /dev/null || fail "not removed in $(date +%Y)"
        # A watchdog that went by this clock would have bitten.
        sleep 35
        [ "$(property MainPID)" = "$pid" ] || fail "the daemon was ended in $(date +%Y)"
        systemctl restart netd || fail "not restarted in $(date +%Y)"
        [ "$(made_once)" = "$once" ] || fail "an operation was forgotten by a start in $(date +%Y)"
        lasting | grep -qx "$stream" || fail "the stream's flow has expired in a start of $(date +%Y)"
        pid=$(property MainPID)
    done
    date -s @$((now + 100)) > /dev/null
    netd network rm once > /dev/null || fail "not removed"
    flows && answers
}

# The control of what is seen outside: with a mount namespace of its own, the unit hides what it mounts.
private() {
    mkdir -p /run/systemd/system/netd.service.d
    printf '[Service]\nPrivateTmp=yes\n' > /run/systemd/system/netd.service.d/private.conf
    systemctl daemon-reload && systemctl start netd || fail "not started"
    netd sandbox create --network net hidden > /dev/null || fail "no sandbox"
    grep -q " /run/netd/netns/hidden " "/proc/$(property MainPID)/mountinfo" || fail "not mounted at all"
    mounted /run/netd/netns/hidden && fail "PrivateTmp= hides nothing: this proves nothing"
    netd sandbox rm hidden > /dev/null || fail "not removed"
    rm -r /run/systemd/system/netd.service.d
    systemctl daemon-reload && systemctl restart netd || fail "not restarted"
    mounted $web && flows && answers
}

exposure() {
    systemd-analyze security --no-pager netd | tail -n 1
    systemd-analyze security --no-pager --threshold="$(echo $exposed | tr -d .)" netd > /dev/null || fail "more than $exposed"
}

# Every line that was sent came back, in order, on one connection.
stream() {
    touch /tmp/enough
    eventually "the end of the stream" test -s /tmp/sent
    all() { [ "$(echoed)" -ge "$(cat /tmp/sent)" ]; }
    eventually "its last line" all
    seq "$(cat /tmp/sent)" | diff - /tmp/echoed > /dev/null || fail "lines were lost or came in another order"
    echo "$(echoed) lines"
}

down() {
    kill "$(cat /tmp/server)"
    systemctl stop netd || fail "not stopped"
    netd down || fail "not taken down"
    host_state > /tmp/after
    diff /tmp/before /tmp/after || fail "not the host of before"
}

# The kernel has met nothing that must not be (reliability I12). An emulated processor that waits for a real one looks locked up.
kernel_log() { ! dmesg | grep -v lockup | grep -E 'cut here|BUG: |Oops: |unregister_netdevice: waiting'; }

ip netns add lan
ip link add up0 type veth peer name eth0 netns lan
ip address add $host/24 dev up0
ip link set up0 up
in_lan ip address add 10.0.0.2/24 dev eth0
in_lan ip link set eth0 up
ip route add default via 10.0.0.2
# Until nothing changes by itself any more.
settled() { ! ip -6 address show tentative | grep -q inet6; }
eventually "addresses" settled

echo "@@ up $(uname -r) $(uptime)"
for check in start sandbox restart kill9 hang clock stop private exposure stream down kernel_log; do
    echo "@@ begin $check $(uptime)"
    ($check)
    code=$?
    [ $code = 0 ] || tail -n 30 /tmp/netd.log
    echo "@@ end $check $code $(uptime)"
done
echo "@@ down"
poweroff -f
