#!/bin/bash
# Ceph and its Python bindings from Debian's archive. Does nothing where it is all there.
set -euo pipefail
exec 9<"$(dirname "$0")/.." && flock 9 # clusters are started at once, and beside other tests
want=()
for package in ceph-mon ceph-mgr ceph-osd ceph-common rbd-mirror python3-rbd python3-rados iproute2; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || want+=("$package")
done
[ ${#want[@]} -eq 0 ] && exit 0
export DEBIAN_FRONTEND=noninteractive
# The packages would start services; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${want[@]}"
