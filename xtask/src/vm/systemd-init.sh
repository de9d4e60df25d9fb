#!/bin/sh
# Loads what the guest needs, and hands over to systemd.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/modules/$module" || echo "cannot load $module"; done < /vm/modules
exec /lib/systemd/systemd
