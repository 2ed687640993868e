# Sourced after lib.sh by the scripts about packages; $1 is the kind, deb or rpm. Both lie beside the script.
KIND=$1
DEB=$(echo enclave-cli_+([0-9.])_amd64.deb)
case $KIND in
deb) THIS=$DEB NEXT=$(echo enclave-cli_*+next_amd64.deb) ;;
rpm) THIS=$(echo enclave-cli-+([0-9.])-1.x86_64.rpm) NEXT=$(echo enclave-cli-*+next-1.x86_64.rpm) ;;
esac

# Installs a package, or puts another version in its place. Usage: put_in FILE
put_in() {
    case $1 in
    *.deb) dpkg --install "$1" ;;
    *.rpm) rpm --force-debian --nodeps --oldpackage --upgrade "$1" ;;
    esac
}

take_out() {
    case $KIND in
    deb) dpkg --remove enclave-cli ;;
    rpm) rpm --force-debian --erase enclave-cli ;;
    esac
}

# Prints the version that is installed; nothing if none is.
version() {
    case $KIND in
    deb) dpkg-query --showformat '${Version}\n' --show enclave-cli ;;
    rpm) rpm --query --queryformat '%{VERSION}\n' enclave-cli ;;
    esac
}

# The guest comes with the deb.
purge_deb() { dpkg --purge enclave-cli; }

# Fails if a file of the package is anywhere: in its directories, as a link to a unit, as a note of dpkg's helpers.
expect_no_file() {
    local names=(-name '*ali-enclaves*' -o -name '*enclave-cli*' -o -name 'enclaves.slice*' -o -name 'allocator.yaml*')
    expect_equal "" "$(find /etc /usr /var /run -xdev \( "${names[@]}" \) ! -path '/var/tmp/*')" "left behind"
    expect_equal not-found "$(unit LoadState)" "the unit"
}
