#!/bin/bash
# Installs through apt-get the programs that the tests, the generator, the
# benchmark or the test machines use, and only those that are missing. No
# service is started, and none that runs is touched. What judges the web page
# (axe-core) comes through npm to bin/axe, as hack/uitest/axe pins it.
#
#   hack/install-test-deps.sh [test] [generate] [lint] [browser] [bench] [vm] [node] [packages]     (default: test)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
missing=()
axe=

# need_command COMMAND PACKAGE...: the packages, unless the command is there.
need_command() {
	command -v "$1" >/dev/null || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("${@:2}")
}

# need_file FILE PACKAGE...: the packages, unless the file is there.
need_file() {
	[ -e "$1" ] || missing+=("${@:2}")
}

for set in "${@:-test}"; do
	case $set in
	test)
		need_command curl curl ca-certificates
		need_command git git
		need_command python3 python3
		need_command node nodejs
		need_command npm npm
		need_command pip3 python3-pip
		/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
		need_command sudo sudo
		need_command make make
		need_file /usr/bin/nc netcat-openbsd
		need_command ip iproute2
		need_command nft nftables
		need_command promtool prometheus
		need_command nginx nginx-light
		need_command haproxy haproxy
		need_command tinyproxy tinyproxy-bin
		need_command rsyslogd rsyslog
		need_command openssl openssl
		need_command strace strace
		need_command mariadbd mariadb-server
		need_command mariadb mariadb-client
		need_command dnsmasq dnsmasq-base
		need_command unbound unbound
		need_command musl-gcc musl-tools
		need_command gcc gcc libc6-dev
		need_file /usr/lib/python3/dist-packages/pycares python3-pycares
		;;
	generate)
		need_command clang clang
		need_command llvm-strip llvm
		need_file /usr/include/bpf/bpf_helpers.h libbpf-dev
		need_file /usr/include/linux/bpf.h linux-libc-dev
		;;
	lint)
		need_command shellcheck shellcheck
		need_command clang-format clang-format
		;;
	browser)
		need_command chromium chromium
		need_command curl curl ca-certificates
		need_command npm npm
		axe=yes
		need_file /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core
		;;
	bench)
		need_command nginx nginx-light
		need_file /usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream
		need_command haproxy haproxy
		need_command wrk wrk
		need_command sniproxy sniproxy
		;;
	node)
		need_command containerd containerd
		need_command runc runc
		need_command podman podman
		need_command dockerd docker.io
		need_file /usr/lib/cni/bridge containernetworking-plugins
		need_command ip iproute2
		need_command nft nftables
		need_command iptables iptables
		need_command jq jq
		need_command rpm rpm
		need_command openssl openssl
		need_command pgrep procps
		need_file /lib/systemd/systemd systemd
		;;
	packages)
		need_command dpkg-deb dpkg
		need_command rpm rpm
		need_command mandoc mandoc
		need_command zsh zsh
		need_command fish fish
		need_file /usr/share/bash-completion/bash_completion bash-completion
		need_command logrotate logrotate
		;;
	vm)
		need_command qemu-system-x86_64 qemu-system-x86
		;;
	*)
		echo "usage: $0 [test] [generate] [lint] [browser] [bench] [vm] [node] [packages]" >&2
		exit 2
		;;
	esac
done

# fetch_axe: npm compares what it gets with the lock file's checksum.
fetch_axe() {
	local lock=$root/hack/uitest/axe/package-lock.json to=$root/bin/axe
	[ -n "$axe" ] && ! cmp -s "$lock" "$to/package-lock.json" || return 0
	rm -rf "$to"
	mkdir -p "$to"
	cp "$root"/hack/uitest/axe/*.json "$to"
	npm ci --prefix "$to" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || {
		rm -rf "$to"
		return 1
	}
}

if [ ${#missing[@]} -eq 0 ]; then
	fetch_axe
	exit
fi
echo "installing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
	echo "$0: no apt-get here; install these by hand" >&2
	exit 1
fi

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Packages with daemons ask this file whether they may start them
# (invoke-rc.d(8)); 101 is no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
	"${as_root[@]}" chmod 755 $policy
	trap '"${as_root[@]}" rm -f $policy' EXIT
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fetch_axe
