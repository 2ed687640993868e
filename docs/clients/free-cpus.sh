#!/bin/sh
# Tells how many CPUs are free for enclaves, now and after each change. Needs varlinkctl (systemd 257) and jq.
for program in varlinkctl jq; do
    command -v $program >/dev/null || { echo "free-cpus: wanted $program" >&2; exit 69; }
done
socket=${1:-/run/ali-enclaves/allocator.sock}

varlinkctl --more --timeout=infinity call "$socket" io.ali-enclaves.Allocator.Watch '{}' |
    jq --unbuffered --raw-output '.pool
        | [.nodes[].cores[] | select(.use == "pool" or .use == "lendable") | .cpus[]] as $free
        | "\(.state): \($free | length) of \(.cpus | length) CPUs free"'
