"""The doors to the kernel and to systemd: /sys, banks, processes."""
