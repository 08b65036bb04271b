# shellcheck shell=bash
# What the scripts beside this file share. They run in bash 3.2, that of macOS, too.

DRY_RUN=false

# Print a command, quoted for a shell, and run it unless --dry-run was given. Files that it names and
# that this script made are gone afterwards; what was in them is printed before.
run() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    if [ "$DRY_RUN" = false ]; then "$@"; fi
}

# Report a wrong request.
fail() {
    printf '%s: error: %s; see %s --help\n' "${0##*/}" "$1" "$0" >&2
    exit 2
}

# Refuse what no option may hold, and an option that is missing: require --region "$region".
require() {
    if [ -z "$2" ]; then fail "$1 is missing"; fi
}

# Refuse a template that is nowhere on Cloud Storage.
require_template() {
    require --template "$1"
    [[ $1 == gs://*/* ]] || fail "--template is $1, which is no object on gs://"
}

# Refuse the names of jobs that Dataflow refuses.
require_job() {
    require --job "$1"
    [[ $1 =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
        fail "--job is $1; use small letters, digits and dashes, a letter first and no dash last"
}

# Refuse parameters NAME=VALUE that the template does not have, or that are there twice: the names
# in the metadata beside this file are those that a launch may use.
require_parameters() {
    [ $# -gt 0 ] || fail "no parameter NAME=VALUE is given"
    local known each name near seen=' '
    known=$(sed -n 's/^      "name": "\([a-z_]*\)",*$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/metadata.json")
    for each in "$@"; do
        name=${each%%=*}
        if [[ $seen == *" $name "* ]]; then
            fail "the parameter $name is there twice; separate several values by commas"
        fi
        seen+="$name "
        if ! grep -qxF -- "$name" <<<"$known"; then
            # A key without its section, or with the dots and dashes of the command line.
            near=$(grep -m 1 -x -- "\(.*_\)\{0,1\}${name//[^a-z_]/_}" <<<"$known" || true)
            fail "there is no parameter $name${near:+; did you mean $near?}"
        fi
    done
}

# Refuse what `json` cannot write.
refuse_control_characters() {
    local each
    for each in "$@"; do
        if [[ $each == *[[:cntrl:]]* ]]; then fail "${each%%=*} holds a line break or a tab"; fi
    done
}

# A text without control characters as JSON, which is YAML as well.
json() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# The parameters NAME=VALUE as the members of a JSON object.
json_members() {
    local separator='' each
    for each in "$@"; do
        printf '%s%s: %s' "$separator" "$(json "${each%%=*}")" "$(json "${each#*=}")"
        separator=', '
    done
}
