#!/bin/sh
# Process 1 of a guest: sets the system up, runs /vm/steps, says on the console what came of each, and ends.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NETD_BIN=/usr/bin/netd
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /tmp /run
mount -t devpts pts /dev/pts
for at in /dev/shm /tmp /run; do mount -t tmpfs tmp $at; done
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount --make-rshared /
echo 1 > /proc/sys/kernel/printk
ip link set lo up
while read -r module; do insmod "/lib/modules/$module" || echo "cannot load $module"; done < /vm/modules

uptime() { cut -d' ' -f1 /proc/uptime; }

echo "@@ up $(uname -r) $(uptime)"
[ -e /vm/shell ] && setsid cttyhack sh
while read -r name command; do
    echo "@@ begin $name $(uptime)"
    sh -c "$command" < /dev/null 2>&1
    code=$?
    echo "@@ end $name $code $(uptime)"
    # Without programs there is nothing to test.
    [ "$name" = programs ] && [ $code != 0 ] && break
done < /vm/steps
echo "@@ down"
poweroff -f
