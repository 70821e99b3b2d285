#!/usr/bin/env bash
# Makes the certificates that a TeleWorker daemon and its users need, with openssl alone.

set -euo pipefail
umask 077
export LC_ALL=C # so that [A-Za-z] means ASCII
unset CDPATH
readonly DEFAULT_DAYS=365
readonly CA_DAYS=3650
readonly MAX_DAYS=36500
# The list is a local file, so a short life would protect nobody, and a list that has
# expired locks everybody out.
readonly CRL_DAYS=3650
readonly CLOCK_SKEW='5 minutes ago' # the reader's clock may be behind ours

usage() {
    cat <<'USAGE'
usage: gen_certs.sh [--dir DIR] [--host NAME_OR_IP]... [--days N] [--revoke CN]...
                    [--renew-crl] [CN...]

Makes what is missing in DIR and never overwrites a key:
  ca.pem, ca-key.pem          the certificate authority
  server.pem, server-key.pem  for teleworkerd
  CN.pem, CN-key.pem          for each user CN (default: client)

  --dir DIR          where (default: certs/ beside this script)
  --host NAME_OR_IP  a name or address of the server; repeat it for more
                     (default: localhost, 127.0.0.1 and ::1)
  --days N           how long server and user certificates are valid (default: 365)
  --revoke CN        put every certificate of CN on the list crl.pem; given without
                     any CN to make, nothing else is done
  --renew-crl        write crl.pem anew, valid for ten years from now; the same holds
  -h, --help         this text

To renew a certificate, remove CN.pem and run this again: the key stays. For a new key,
remove CN-key.pem as well. Keep ca-key.pem and .ca/ safe: the daemon needs neither.
USAGE
}

die() {
    local message=$*
    echo "gen_certs.sh: error: ${message//[[:cntrl:]]/?}" >&2 # one line, whatever was typed
    exit "${exit_code:-1}"
}

bad_usage() { exit_code=2 die "$@"; }

warn() { echo "gen_certs.sh: warning: $*" >&2; }

check_cn() {
    [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$ ]] ||
        bad_usage "bad name '$1': at most 64 of A-Z a-z 0-9 . _ @ -, the first a letter or digit"

    case $1 in
    ca | server | crl | *-key) bad_usage "the name '$1' is taken by this script's own files: choose another" ;;
    esac
}

check_days() {
    [[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -le $MAX_DAYS ]] ||
        bad_usage "bad --days '$1': a whole number from 1 to $MAX_DAYS"
}

is_ipv4() {
    local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    [[ $1 =~ ^$byte(\.$byte){3}$ ]]
}

is_ipv6() {
    local address=$1 group='[0-9A-Fa-f]{1,4}' groups
    if [[ $address == *:*.* ]]; then
        is_ipv4 "${address##*:}" || return 1
        address="${address%:*}:0:0"
    fi
    read -ra groups <<<"${address//:/ }"
    if [[ $address == *::* ]]; then
        [[ $address =~ ^($group(:$group)*)?::($group(:$group)*)?$ ]] && ((${#groups[@]} <= 7))
    else
        [[ $address =~ ^$group(:$group){7}$ ]]
    fi
}

is_dns_name() {
    local label='[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?'
    [[ $1 =~ ^(\*\.)?$label(\.$label)*$ ]] && ((${#1} <= 253)) && ! [[ $1 =~ (^|\.)[0-9]+$ ]]
}

is_address() { is_ipv4 "$1" || is_ipv6 "$1"; }

check_host() {
    is_address "$1" || is_dns_name "$1" ||
        bad_usage "bad --host '$1': neither a host name nor an IP address"
}

dir=
days=$DEFAULT_DAYS
hosts=()
names=()
revoked=()
renew_crl=

parse() {
    local host
    while (($#)); do
        case $1 in
        --dir=* | --host=* | --days=* | --revoke=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case $1 in
        --dir | --host | --days | --revoke) [[ -n ${2-} ]] || bad_usage "$1 needs a value" ;;
        esac

        case $1 in
        --dir) dir=$2 && shift ;;
        --days) check_days "$2" && days=$2 && shift ;;
        --revoke) check_cn "$2" && revoked+=("$2") && shift ;;
        --host)
            host=$2 && shift
            [[ ! $host =~ ^\[(.*:.*)\]$ ]] || host=${BASH_REMATCH[1]} # as in a URL: [::1]
            check_host "$host" && hosts+=("$host")
            ;;
        --renew-crl) renew_crl=yes ;;
        -h | --help) usage && exit 0 ;;
        --) ;; # no CN begins with a dash
        -*) bad_usage "no such option '$1': see --help" ;;
        *) check_cn "$1" && names+=("$1") ;;
        esac
        shift
    done
}

enter_directory() {
    [[ -n $dir ]] || dir=$(dirname -- "${BASH_SOURCE[0]}")/certs
    [[ $dir != -* ]] || dir=./$dir
    # The directory is open to all (the daemon reads ca.pem as an ordinary user); the
    # keys in it are not.
    (umask 022 && mkdir -p -- "$dir")
    cd -- "$dir"
    mkdir -p .ca
    exec 9>.ca/lock
    ! command -v flock >/dev/null || flock -w 60 9 ||
        die "another gen_certs.sh has been at work in $dir for a minute: try again"

    rm -rf .ca/work.* # of a run that was killed
    work=$(mktemp -d .ca/work.XXXXXX)
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
}

publish() {
    chmod 0644 -- "$1"
    mv -fT -- "$1" "$2"
}

publish_index() {
    local file
    for file in crlnumber index; do # in the order that load_index relies on
        cp -- "$work/$file" "$work/$file.new"
        mv -f -- "$work/$file.new" ".ca/$file"
    done
}

exists() { [[ -e $1 || -L $1 ]]; }

run_openssl() {
    if ! openssl "$@" 2>"$work/log"; then
        cat -- "$work/log" >&2
        die "'openssl $1' failed in $PWD"
    fi
}

write_config() {
    local leaf='basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always'
    cat >"$work/config" <<CONFIG
[ca]
default_ca = authority

[authority]
certificate = ca.pem
private_key = ca-key.pem
database = $work/index
new_certs_dir = $work
crlnumber = $work/crlnumber
rand_serial = yes
unique_subject = no
default_md = sha256
policy = name
crl_extensions = crl

[name]
commonName = supplied

[req]
distinguished_name = name
string_mask = utf8only

[ca_certificate]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash

[client_certificate]
$leaf
extendedKeyUsage = clientAuth

[server_certificate]
$leaf
extendedKeyUsage = serverAuth
subjectAltName = @hosts

[crl]
authorityKeyIdentifier = keyid:always

[hosts]
CONFIG
    local number kind
    for number in "${!hosts[@]}"; do
        is_address "${hosts[number]}" && kind=IP || kind=DNS
        echo "$kind.$number = ${hosts[number]}" >>"$work/config"
    done
}

# The index names every certificate ever issued, so that all of a user's can be revoked,
# those whose files are gone included.
load_index() {
    : >"$work/index"
    echo 01 >"$work/crlnumber"
    [[ ! -e .ca/index ]] || cp -- .ca/index .ca/crlnumber "$work"
}

make_key() {
    run_openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 \
        -pkeyopt ec_param_enc:named_curve -out "$work/key.pem"
    mv -nT -- "$work/key.pem" "$1" || true # what mv says about a file it left differs by version
    [[ ! -e $work/key.pem ]] || die "$1 has appeared meanwhile: run this again"
}

# sign NAME KEY PROFILE DAYS [ARGUMENT...]: leaves $work/certificate.pem
sign() {
    local name=$1 key=$2 profile=$3 lifetime=$4
    shift 4
    run_openssl req -new -config "$work/config" -key "$key" -subj "/CN=$name" -out "$work/request.pem"
    run_openssl ca -batch -notext -config "$work/config" -extensions "$profile" \
        -startdate "$(date -u -d "$CLOCK_SKEW" +%Y%m%d%H%M%SZ)" -days "$lifetime" \
        -in "$work/request.pem" -out "$work/certificate.pem" "$@"
}

# field_of FILE FIELD: serial or enddate
field_of() { openssl x509 -in "$1" -noout "-$2" | sed 's/^[^=]*=//'; }

is_ours() { openssl verify -no_check_time -CAfile ca.pem "$1" >/dev/null 2>&1; }

ensure_authority() {
    if exists ca.pem; then
        openssl x509 -in ca.pem -noout 2>/dev/null ||
            die "$PWD/ca.pem is not a certificate: remove it for a new one with the same key"
        echo "ca: kept, valid until $(field_of ca.pem enddate)"
        return
    fi

    if ! exists ca-key.pem; then
        rm -f .ca/index .ca/crlnumber # what another authority issued
        load_index
        make_key ca-key.pem
        ! exists crl.pem || warn "crl.pem is of another authority: remove it, or nobody will be let in"
    fi

    # An authority does not list itself: its entry goes into an index that is thrown away.
    local lifetime=$((days > CA_DAYS ? days : CA_DAYS))
    sign 'TeleWorker CA' ca-key.pem ca_certificate "$lifetime" -selfsign
    publish "$work/certificate.pem" ca.pem
    load_index
    echo "ca: made, valid until $(field_of ca.pem enddate)"
}

need_authority() {
    exists ca-key.pem || die "$1 needs ca-key.pem, and $PWD has only ca.pem: bring the key back"
    openssl x509 -in ca.pem -noout -checkend 0 >/dev/null ||
        die "$PWD/ca.pem has expired: remove it and run this again; the key stays, and so does what it signed"
}

ensure_pair() {
    local name=$1 profile=$2 verb=made problem
    if exists "$name.pem" && exists "$name-key.pem"; then
        problem=$(problem_of "$name")
        [[ -z $problem ]] || warn "$name: kept, but $problem"
        [[ -n $problem ]] || echo "$name: kept, valid until $(field_of "$name.pem" enddate)"
        return
    fi

    need_authority "$name.pem"
    if exists "$name-key.pem"; then
        verb='made for the key that was there'
    else
        ! exists "$name.pem" ||
            warn "$name-key.pem was missing: a new key and certificate are made; the old stay valid until revoked"
        make_key "$name-key.pem"
    fi
    sign "$name" "$name-key.pem" "$profile" "$days"
    publish_index # before the certificate: one that is out must be revocable
    publish "$work/certificate.pem" "$name.pem"
    echo "$name: $verb, valid until $(field_of "$name.pem" enddate)"
}

problem_of() {
    local name=$1 key
    local renew="remove $name.pem and run this again"
    if ! openssl x509 -in "$name.pem" -noout 2>/dev/null; then
        echo "$name.pem is not a certificate: $renew"
        return
    fi

    key=$(openssl pkey -in "$name-key.pem" -passin pass: -pubout 2>/dev/null) || key=
    if [[ $key != "$(openssl x509 -in "$name.pem" -noout -pubkey)" ]]; then
        echo "key and certificate do not belong together: $renew"
    elif ! is_ours "$name.pem"; then
        echo "ca.pem has not signed it: $renew"
    elif grep -q "^R.*"$'\t'"$(field_of "$name.pem" serial)"$'\t' "$work/index"; then
        echo "it is revoked: remove $name.pem and $name-key.pem for new ones"
    elif ! openssl x509 -in "$name.pem" -noout -checkend 0 >/dev/null; then
        echo "it has expired: $renew"
    elif [[ $name == server ]]; then
        unnamed_hosts "$renew"
    fi
}

unnamed_hosts() {
    local host check
    for host in "${asked_hosts[@]}"; do # the default hosts are no reason to complain
        is_address "$host" && check=-checkip || check=-checkhost
        # This openssl command says it in words, with exit status 0 in most versions.
        if [[ $(openssl x509 -in server.pem -noout "$check" "${host/#\*/any}" 2>&1) != *'does match'* ]]; then
            echo "it is not for $host: $1"
            return
        fi
    done
}

revoke() {
    local name=$1 known
    if is_ours "$name.pem" && ! grep -qF $'\t'"$(field_of "$name.pem" serial)"$'\t' "$work/index"; then
        run_openssl ca -config "$work/config" -revoke "$name.pem"
    fi

    known=$(awk -F '\t' -v subject="/CN=$name" '$6 == subject { print $1 }' "$work/index")
    [[ -n $known ]] || die "no certificate for '$name' was made in $PWD: nothing to revoke"
    [[ $known == *V* ]] || echo "$name: was revoked before"

    awk -F '\t' -v OFS='\t' -v subject="/CN=$name" -v now="$(date -u +%y%m%d%H%M%SZ)" \
        '$6 == subject && $1 != "R" { $1 = "R"; $3 = now } { print }' \
        "$work/index" >"$work/index.revoked"
    mv -f -- "$work/index.revoked" "$work/index"
}

serials_in() {
    openssl crl -in "$1" -noout -text | sed -n 's/^ *Serial Number: *//p' | sort
}

write_crl() {
    local backdate=() lost
    if [[ $(openssl ca -help 2>&1) == *-crl_lastupdate* ]]; then # since OpenSSL 3.0
        backdate=(-crl_lastupdate "$(date -u -d "$CLOCK_SKEW" +%Y%m%d%H%M%SZ)")
    fi
    run_openssl ca -gencrl -config "$work/config" -crldays "$CRL_DAYS" "${backdate[@]}" -out "$work/crl.pem"

    if exists crl.pem; then
        lost=$(comm -23 <(serials_in crl.pem) <(serials_in "$work/crl.pem"))
        [[ -z $lost ]] ||
            die "crl.pem revokes ${lost%%$'\n'*}, which .ca/index in $PWD does not know: bring .ca back, or remove crl.pem"
    fi
    publish_index
    publish "$work/crl.pem" crl.pem
}

crl_end() { openssl crl -in crl.pem -noout -nextupdate | sed 's/^[^=]*=//'; }

parse "$@"
asked_hosts=("${hosts[@]}")
((${#hosts[@]})) || hosts=(localhost 127.0.0.1 ::1)
[[ -n $renew_crl ]] || ((${#names[@]} + ${#revoked[@]})) || names=(client)

command -v openssl >/dev/null || die "openssl is not installed: install the package 'openssl'"
enter_directory
write_config
load_index

if [[ -n $renew_crl ]] || ((${#revoked[@]})); then
    exists ca.pem || die "there is no certificate authority in $PWD: nothing to revoke"
    need_authority crl.pem
    for name in "${revoked[@]}"; do
        revoke "$name"
    done
    write_crl
    echo "crl.pem: ${revoked[*]+revokes ${revoked[*]}, }valid until $(crl_end); give it to the daemon and reload it"
fi

if ((${#names[@]})); then
    ensure_authority
    ensure_pair server server_certificate
    for name in "${names[@]}"; do
        ensure_pair "$name" client_certificate
    done
fi
