#!/bin/sh
# Installs or upgrades Keystone Agent on this robot. It needs root, and no network if all files are
# on this robot.
set -eu

usage() {
	cat <<'END'
usage: install.sh --package FILE|URL [--sha256 SUM] [--endpoints FILE|URL | --gateway URL [--auth URL] [--device-init URL]]

  --package      the .deb, for this robot's architecture
  --sha256       the SHA-256 of the package; required for a package that comes over http
  --endpoints    the file with the platform's endpoints, or a whole device profile file
  --gateway      the address of the platform's gateway, in place of that file
  --auth         the address where keys are exchanged, if it differs from the gateway
  --device-init  the address where robots enrol, if it differs from the gateway

You can run it again at any time. It keeps what already exists, above all this robot's key.
Exit codes: 0 installed, 1 failed, 2 wrong usage.
END
}

say() { printf '%s\n' "$*"; }
fail() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
misused() {
	printf 'install.sh: %s (see --help)\n' "$*" >&2
	exit 2
}

# public PLACE: prints a path or URL without its password, and without its query, which may have a
# signature.
public() { printf '%s' "${1%%\?*}" | sed 's|://[^/@]*@|://|'; }

# fetch WHAT PLACE FILE: copies or downloads PLACE to FILE. WHAT names it in errors. apt's own program
# uses the proxies of this robot, and is installed where curl and wget are not.
fetch() {
	case $2 in
	https://* | http://*)
		[ -x /usr/lib/apt/apt-helper ] || fail "this system has no apt-helper, which downloads URLs: give $1 as a file"
		/usr/lib/apt/apt-helper -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download-file "$2" "$3" >"$work/log" 2>&1 ||
			fail "$1 can't be fetched from $(public "$2"): $(sed -n 's/^E: *//p' "$work/log" | sed 's|http[^ ]*||' | tail -n 1)"
		;;
	*://*) misused "$1 must be a file or an https URL, not $(public "$2")" ;;
	*)
		[ -f "$2" ] || fail "$1 is not there: $2"
		cp -- "$2" "$3" || fail "$1 can't be read: $2"
		;;
	esac
}

# Prints the endpoints file for the given addresses.
endpoints() {
	for url in "$gateway" "${auth:-$gateway}" "${device_init:-$gateway}"; do
		printf '%s' "$url" | grep -Eqx 'https?://[][A-Za-z0-9._:-]+' || misused "$(public "$url") is no address such as https://gateway.example.org"
	done
	printf '{"version": 3, "endpoints": {"auth": "%s", "gateway": "%s", "deviceInit": "%s"}}\n' \
		"${auth:-$gateway}" "$gateway" "${device_init:-$gateway}"
}

install_package() {
	name=$(dpkg-deb --field "$work/agent.deb" Package 2>/dev/null) || fail "$(public "$package") is no Debian package"
	[ "$name" = keystone-agent ] || fail "$(public "$package") is the package $name, not keystone-agent"
	architecture=$(dpkg-deb --field "$work/agent.deb" Architecture)
	[ "$architecture" = "$(dpkg --print-architecture)" ] || [ "$architecture" = all ] ||
		fail "$(public "$package") is for $architecture, this robot is $(dpkg --print-architecture)"
	version=$(dpkg-deb --field "$work/agent.deb" Version)
	there=$(dpkg-query --show --showformat='${db:Status-Status} ${Version}' keystone-agent 2>/dev/null) || there=
	if [ "$there" = "installed $version" ]; then
		say "keystone-agent $version is installed already"
		return
	fi
	case $there in "installed "*)
		! dpkg --compare-versions "${there#installed }" gt "$version" ||
			fail "keystone-agent ${there#installed } is installed, which is newer than $version: nothing was changed"
		;;
	esac
	# The operator's changes to the configuration are kept, and apt asks no questions.
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$work/agent.deb" >"$work/log" 2>&1 </dev/null || {
		cat "$work/log" >&2
		fail "the package can't be installed: see the messages of apt above"
	}
	say "keystone-agent $version is installed"
}

# Writes the endpoints into the profile file. This runs as the agent's user, which then owns the file,
# and under the lock of enrolment, so that a key which the agent is just writing is not lost. The
# endpoints file is passed as standard input, because it may contain keys and only root may read it.
# Its content is never printed.
lay_profile() {
	profile=$(keystone-agent config show --json | python3 -IS -c '
import json, sys
settings = json.load(sys.stdin)
print(settings["cloud"]["dp_config"] or settings["agent"]["state_dir"] + "/dp-config.json")') ||
		fail "the configuration is wrong: correct it, and run this again"
	runuser -u keystone-agent -- python3 -IS -c '
import fcntl, json, os, sys

profile = sys.argv[1]
def read(path):
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    return document if isinstance(document, dict) else {}
try:
    given = read(0)
    endpoints = given["endpoints"]
    for name in ("gateway", "auth") + (() if given.get("devices") else ("deviceInit",)):
        if not isinstance(endpoints[name], str) or not endpoints[name]:
            raise KeyError(name)
except KeyError as error:
    sys.exit("install.sh: the endpoints file has no " + str(error.args[0]))
except (ValueError, TypeError, AttributeError):
    sys.exit("install.sh: the endpoints file is no JSON of the kind that the platform gives")
os.umask(0o077)
try:
    lock = os.open(os.path.join(os.path.dirname(profile), "." + os.path.basename(profile) + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    known = read(profile) if os.path.exists(profile) else {}
    if any(device.get("apiKey") for device in known.get("devices") or ()):
        print("this robot has a key already: " + profile + " stays as it is")
    elif known == given:
        print("endpoints: " + profile + " has them already")
    else:
        with open(profile + ".new", "w", encoding="utf-8") as file:
            json.dump(given, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(profile + ".new", profile)
        print("endpoints: " + profile)
except (OSError, ValueError, TypeError, AttributeError) as error:
    sys.exit("install.sh: " + profile + " can not be read or written by keystone-agent (" + type(error).__name__ + "): nothing was changed")
' "$profile" <"$work/endpoints.json"
}

package='' sum='' file='' gateway='' auth='' device_init=''
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--package | --sha256 | --endpoints | --gateway | --auth | --device-init)
		[ -n "${2-}" ] || misused "$1 needs a value"
		case $1 in
		--package) package=$2 ;;
		--sha256) sum=$2 ;;
		--endpoints) file=$2 ;;
		--gateway) gateway=$2 ;;
		--auth) auth=$2 ;;
		--device-init) device_init=$2 ;;
		esac
		shift 2
		;;
	*) misused "$1 is not known" ;;
	esac
done
[ -n "$package" ] || misused "--package is missing"
[ -z "$file" ] || [ -z "$gateway$auth$device_init" ] || misused "--endpoints or addresses, not both"
[ -n "$gateway" ] || [ -z "$auth$device_init" ] || misused "--gateway is missing"
case $package in http://*) [ -n "$sum" ] || misused "a package that comes over http needs --sha256" ;; esac
case $file in http://*) misused "--endpoints must be a file or an https URL: it says where recordings go" ;; esac
[ "$(id -u)" = 0 ] || fail "only root can install it: sudo sh install.sh …"
{ command -v apt-get && command -v dpkg-deb && command -v runuser; } >/dev/null ||
	fail "this is no Debian or Ubuntu: see deploy/README.md on how to install it elsewhere"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
fetch "the package" "$package" "$work/agent.deb"
[ -z "$sum" ] || printf '%s  %s\n' "$sum" "$work/agent.deb" | sha256sum --check --status ||
	fail "$(public "$package") is not what --sha256 says: nothing was changed"
if [ -n "$file" ]; then fetch "the endpoints file" "$file" "$work/endpoints.json"; fi
if [ -n "$gateway" ]; then endpoints >"$work/endpoints.json"; fi
install_package
if [ -e "$work/endpoints.json" ]; then lay_profile; fi

say
keystone-agent check || say "(The checks above say what is not ok yet. The agent continues by itself when it is ok.)"
say
keystone-agent status || true
