# Prints what there is to see when the time of a script has run out, and all its processes are killed.
set -euo pipefail
echo "--- the time ran out at $(cut -d' ' -f1 /proc/uptime); what runs now:"
ps -N --ppid 2 -o pid,ppid,stat,wchan:24,etime,args
systemctl list-jobs --no-pager
echo "--- and the end of the journal:"
journalctl --boot --no-pager --lines 100 --output short-monotonic
