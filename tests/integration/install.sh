#!/bin/bash
# What the integration tests run against, from Debian's archive. Does nothing where it is all there.
set -euo pipefail
exec 9<"$(dirname "$0")" && flock 9 # one at a time, Ceph included
want=()
command -v etcd >/dev/null || want+=(etcd-server)
command -v etcdctl >/dev/null || want+=(etcd-client)
command -v mosquitto >/dev/null || want+=(mosquitto)
command -v openssl >/dev/null || want+=(openssl)
command -v qemu-system-x86_64 >/dev/null || want+=(qemu-system-x86)
# Of the VM with a guest agent (agent_vm.py).
[[ -x /bin/busybox && $(ldd /bin/busybox 2>&1) == *'not a dynamic'* ]] || want+=(busybox-static)
command -v systemd-analyze >/dev/null || want+=(systemd) # under_unit.py
command -v cpio >/dev/null || want+=(cpio)
command -v mke2fs >/dev/null || want+=(e2fsprogs)
[ ${#want[@]} -eq 0 ] && exit 0
export DEBIAN_FRONTEND=noninteractive
# The packages would start a service; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${want[@]}"
