#!/usr/bin/env bash
# A daemon on loopback, certificates for two users, and a few jobs: what `make demo` runs.
# Everything happens in a temporary directory, which is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
daemon=

clean_up() {
    local status=$?
    trap - EXIT INT TERM

    if [[ -n $daemon ]]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi

    if ((status)); then
        echo "the demonstration failed; the daemon said:" >&2
        cat "$dir/log" >&2 2>/dev/null || true
    fi

    rm -rf "$dir"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' cyan=$'\e[36m' plain=$'\e[0m'
else
    bold='' cyan='' plain=''
fi

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

# Print a command as one would type it, then run it.
show() {
    local word line='$'

    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word=${word@Q}
        line+=" $word"
    done

    printf '%s%s%s\n' "$cyan" "$line" "$plain"
    "$@"
}

be() {
    export TWCTL_CERT=$dir/certs/$1.pem TWCTL_KEY=$dir/certs/$1-key.pem
}

say "Certificates: a CA, the server, and two users"
show ./gen_certs.sh --dir "$dir/certs" alice bob

say "The daemon, on a free port of loopback"
echo "$ teleworkerd --listen 127.0.0.1:0 --state-dir $dir/state --certs $dir/certs &"
teleworkerd --listen 127.0.0.1:0 --state-dir "$dir/state" --certs "$dir/certs" \
    2>"$dir/log" &
daemon=$!

for _ in {1..200}; do
    [[ -f $dir/state/address ]] && break
    kill -0 "$daemon" || exit 1
    sleep 0.05
done

TWCTL_HOST=$(<"$dir/state/address")
export TWCTL_HOST TWCTL_CA=$dir/certs/ca.pem
be alice
show twctl info

say "A job in the background: its ID comes back at once"
# shellcheck disable=SC2016 # for the job's own shell
count='for i in 1 2 3 4 5; do echo "step $i"; echo "note $i" >&2; sleep 0.3; done'
show twctl run --name count -- sh -c "$count"

say "Read it from its first byte, then live, until it ends; and what it wrote to stderr"
show twctl tail -f count
show twctl tail --err count

say "In the foreground, with its own exit code"
show twctl run -f -- sh -c 'echo to stdout; echo to stderr >&2; exit 3' ||
    echo "(exit code $?)"

say "Limits: this one wants 200 MB and may have 20"
if twctl info -o json | grep -q '"mem": *"yes"'; then
    show twctl run -f --name hungry --mem 20 -- python3 -c 'bytearray(200 << 20)' ||
        echo "(exit code $?)"
    show twctl status hungry
else
    echo "(this machine cannot limit jobs: see the daemon's log, and be root)"
fi

say "A whole tree ends, whatever it did to get away"
show twctl run --name tree -- sh -c 'setsid sleep 1000 & sleep 1000'
show twctl kill tree
show twctl wait tree || echo "(exit code $?)"

say "Somebody else's job does not exist"
be bob
show twctl status count || echo "(exit code $?)"

say "All of alice's jobs"
be alice
show twctl list -a
