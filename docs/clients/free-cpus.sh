#!/bin/sh
# Tells how many CPUs are free for enclaves, now and after each change. Needs varlinkctl (systemd 257) and jq.
socket=${1:-/run/ali-enclaves/allocator.sock}

varlinkctl --more --timeout=infinity call "$socket" io.ali-enclaves.Allocator.Watch '{}' |
    jq --unbuffered --raw-output '.pool
        | [.nodes[].cores[] | select(.use == "pool" or .use == "lendable") | .cpus[]] as $free
        | "\(.state): \($free | length) of \(.cpus | length) CPUs free"'
