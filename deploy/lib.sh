# shellcheck shell=bash
# What the scripts beside this file share. They run in bash 3.2, that of macOS, too.

DRY_RUN=false

# Print a command so that it can be pasted into a shell, and run it unless --dry-run was given.
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
