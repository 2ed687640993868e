# Neither the installation of the package, nor asking, nor enabling takes a core or a page.
. ./lib.sh
before=$(snapshot)

step "the package is installed, and the service does not run"
expect_equal inactive "$(unit ActiveState)" "state"
expect_equal disabled "$(unit UnitFileState)" "enablement"

step "systemctl enable"
expect_exit 0 systemctl enable $UNIT
expect_exit 0 systemctl is-enabled $UNIT
for later in docker.service kubelet.service multi-user.target; do expect_in " $later " " $(unit Before) "; done
expect_in " systemd-modules-load.service " " $(unit After) "
expect_exit 0 systemctl disable $UNIT

step "check"
expect_exit 0 ali-enclaves-allocator check
expect_in "$YAML: fits this machine: CPUs 2-3 (1 core) on node 0, 1024 MiB in 512×2M" "$said"

step "plan"
expect_exit 0 ali-enclaves-allocator plan --json
expect_equal 512 "$(part take.0.count <<<"$said")" "pages that the plan adds"

step "status"
expect_exit 3 ali-enclaves-allocator status
expect_in "ali-enclaves-allocator is not running" "$said"

step "nothing is different"
expect_equal inactive "$(unit ActiveState)" "state"
expect_machine "$before" "after all that"
[ ! -e $LEDGER ] || fail "there is a ledger: $(<$LEDGER)"
