#!/bin/bash
# beside.sh LOG FIRST SECOND: both commands at once. What FIRST says is in LOG, and shown when both have ended.
# Fails if one of them did.
set -u
log=$1
mkdir -p "$(dirname "$log")"
bash -c "exec $2" >"$log" 2>&1 &
first=$!
trap 'kill $first 2>/dev/null' INT TERM
bash -c "exec $3"
second=$?
wait $first
first=$?
cat "$log"
exit $((first || second))
