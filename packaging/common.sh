# Sourced by packaging/quickstart and tests/run: what a bare Debian lacks, and how it gets it. Sources are apt and PyPI.
# shellcheck shell=bash

PYTHON=/usr/bin/python3
# To build systemd-python, which comes as source, and to make a virtual environment.
# shellcheck disable=SC2034
BUILD_PACKAGES=(python3-venv python3-dev libsystemd-dev pkg-config gcc)

say() { printf '==> %s\n' "$*"; }

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 2
}

# Which of the packages are not installed.
missing_packages() {
	local package
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || printf '%s\n' "$package"
	done
}

# Needs root. The lists are fetched only when the installation fails without: a machine may be offline and complete.
install_packages() {
	local missing
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]} (apt)"
	if ! apt_get install "${missing[@]}" >/dev/null 2>&1; then
		apt_get update >/dev/null || die "cannot fetch the package lists: apt-get update failed"
		apt_get install "${missing[@]}" >/dev/null || die "cannot install ${missing[*]}: apt-get failed"
	fi
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
		--no-install-recommends "$@" </dev/null
}

# The users that daemon, private engine and hooks run as. $1: the tree.
make_system_users() {
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers "$1/packaging/sysusers.d/clamscannerd.conf"
	fi
	local name
	for name in clamscannerd clamscannerd-engine clamscannerd-notify; do
		getent passwd "$name" >/dev/null ||
			useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin "$name"
	done
}

# A virtual environment in $1, made anew when the machine's Python has changed under it.
make_venv() {
	"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "cannot use $PYTHON: 3.11 or later is needed, this is $("$PYTHON" -V)"
	local clear=()
	if [ -e "$1" ] && ! "$1/bin/python" -c 'import pip' 2>/dev/null; then
		clear=(--clear)
	fi
	"$PYTHON" -m venv "${clear[@]}" "$1"
}

# pip without its good advice; what it says is shown when it fails.
pip_in() {
	local venv=$1 log
	shift
	log=$(mktemp)
	if ! PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip "$@" >"$log" 2>&1 </dev/null; then
		cat "$log" >&2
		rm -f "$log"
		die "cannot install into $venv: pip failed, see above"
	fi
	rm -f "$log"
}

# True if every user can read the program in tree $1. Needs root, to stand in the shoes of nobody; from a directory that
# nobody can return to, as find insists on that.
open_to_all() {
	local shut
	shut=$(
		cd /
		setpriv --reuid 65534 --regid 65534 --clear-groups \
			find "$1/clamscannerd" '(' '!' -readable -o -type d '!' -executable ')' -print -quit 2>&1 || true
	)
	[ -z "$shut" ]
}
