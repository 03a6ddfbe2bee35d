#!/bin/sh
# Prepares .venv at the root of a checkout: `make setup`. Safe to run again; does nothing when nothing has changed.
# PYTHON names the interpreter (default: the newest supported python3.x that is found).
set -eu
cd "$(dirname "$0")/.."

supported='import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else 1)'
if [ -z "${PYTHON:-}" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$supported" 2>/dev/null; then
            PYTHON=$candidate
            break
        fi
    done
fi
if [ -z "${PYTHON:-}" ] || ! "$PYTHON" -c "$supported"; then
    echo "setup: Python 3.11, 3.12 or 3.13 is needed and was not found; name one with PYTHON=/path/to/python3" >&2
    exit 1
fi

# Debian packages: installed where that is allowed, else named. Only what a command needs stops that command.
if command -v dpkg-query >/dev/null 2>&1; then
    missing=
    for entry in $(grep -v '^#' packaging/apt-packages.txt); do
        package=${entry%%\?*}
        if [ "$package" != "$entry" ] && command -v "${entry#*\?}" >/dev/null 2>&1; then
            continue
        fi
        case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
            *"ok installed") ;;
            *) missing="$missing $package" ;;
        esac
    done
    if [ -n "$missing" ]; then
        if [ "$(id -u)" = 0 ]; then
            echo "setup: installing the Debian packages$missing"
            export DEBIAN_FRONTEND=noninteractive
            # A server that a package brings is not ours to start.
            policy=/usr/sbin/policy-rc.d
            if [ ! -e "$policy" ]; then
                printf '#!/bin/sh\nexit 101\n' >"$policy"
                chmod 755 "$policy"
                trap 'rm -f "$policy"' EXIT
            fi
            apt-get update -qq
            # shellcheck disable=SC2086
            apt-get install -y -qq --no-install-recommends $missing >/dev/null
        else
            echo "setup: these Debian packages are missing; drivers and tests that use them will say so:" >&2
            echo "    sudo apt-get install --no-install-recommends$missing" >&2
        fi
    fi
fi

stamp=.venv/.setup
wanted=$(cat constraints.txt pyproject.toml drivers/*/pyproject.toml plugins/*/pyproject.toml packaging/setup.sh | cksum; pwd; "$PYTHON" -V)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
echo "setup: making .venv with $("$PYTHON" -V)"
"$PYTHON" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
# The workspace itself: all members from this checkout, with the tools that are already there.
set -- -e .
for member in drivers/* plugins/*; do
    [ -f "$member/pyproject.toml" ] && set -- "$@" -e "$member"
done
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$@"
printf '%s' "$wanted" >"$stamp"
