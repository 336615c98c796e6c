#!/usr/bin/env bash
# Checks and times this build on the GPU of this machine. Needs a driver and cuBLASLt, no compiler, no Rust, no network.
#
#   ./run.sh [RESULTS]               everything, pages and JSON into RESULTS (default: ./results)
#   PARTS="parity kernels" ./run.sh  some of: instructions parity memcheck racecheck kernels serve steps peers
#   TINY=1 ./run.sh                  tiny shapes, to see that everything runs
#
# Every part may fail or run out of time without stopping the next; summary.md says which did.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
results=${1:-$here/results}
: "${LARGEST_SANITIZED:=3000}"
gpu=${GPU_BIN:-$here/gpu}
quire=${QUIRE_BIN:-$here/quire}
parts=${PARTS:-instructions parity memcheck racecheck kernels serve steps peers}
python=${PYTHON:-python3}
mkdir -p "$results"
summary=$results/summary.md
tiny=()
[ -n "${TINY:-}" ] && tiny=(--tiny)

# Adds the folder of a library that the loader does not know. What the caller set comes first.
find_library() { # NAME FOLDER...
    local name=$1 folder file
    shift
    ldconfig -p 2>/dev/null | grep -q "$name" && return
    for folder in ${LD_LIBRARY_PATH//:/ }; do
        for file in "$folder/$name" "$folder/${name%.so.*}.so"; do [ -e "$file" ] && return; done
    done
    for folder in "$@"; do
        [ -e "$folder/$name" ] || continue
        export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
        return
    done
    echo "- $name was not found" >> "$summary"
}

# Where Python packages keep NVIDIA's libraries.
site_folders() {
    "$python" - << 'PY' 2>/dev/null
import glob, site, sys
roots = set(sys.path) | set(site.getsitepackages()) | {site.getusersitepackages()}
for root in roots:
    if root:
        print("\n".join(glob.glob(root + "/nvidia/*/lib")))
PY
}

# timeout(1) runs programs, not functions of this script.
limited() { # SECONDS COMMAND...
    local seconds=$1
    shift
    if [ "$(type -t "$1")" = function ]; then
        export -f "$1"
        export gpu results LARGEST_SANITIZED
        timeout --kill-after=10 "$seconds" bash -c '"$@"' _ "$@"
    else
        timeout --kill-after=10 "$seconds" "$@"
    fi
}

# Runs a part with a limit of so many seconds, its output in a log.
part() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 status start=$SECONDS
    shift 2
    case " $parts " in *" $name "*) ;; *) return ;; esac
    echo "== $name"
    limited "$seconds" "$@" > "$results/$name.log" 2>&1
    status=$?
    case $status in
        0) word=ok ;;
        124 | 137) word="out of time after $seconds s" ;;
        *) word="failed ($status)" failed=1 ;;
    esac
    [ $status -eq 0 ] || failed=1
    echo "| $name | $word | $((SECONDS - start)) s |" | tee -a "$summary"
}

sanitized() { # TOOL
    if ! command -v compute-sanitizer > /dev/null; then
        echo "compute-sanitizer is not installed"
        return 0
    fi
    # Outputs of at most some hundred numbers: every access costs a check.
    compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
        "$gpu" parity instructions --output "$results/$1" --largest-output "$LARGEST_SANITIZED"
}

failed=0
{
    echo "# GPU run"
    echo
    echo '```'
    date -u
    uname -srm
    ldd --version 2>/dev/null | head -1
    nvidia-smi 2>/dev/null | head -15
    "$python" -c 'import torch; print("torch", torch.__version__)' 2>/dev/null
    echo '```'
    echo
} > "$summary"
find_library libcuda.so.1 /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib /usr/lib64-nvidia
# shellcheck disable=SC2046
find_library libcublasLt.so.13 /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
    /usr/local/cuda-13*/lib64 $(site_folders)
{
    echo "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"
    echo
    echo "| part | | time |"
    echo "|---|---|---|"
} >> "$summary"

part instructions 60 "$gpu" instructions --output "$results" "${tiny[@]}"
part parity 120 "$gpu" parity --output "$results" --largest-output "${LARGEST_OUTPUT:-100000000}"
part kernels 240 "$gpu" kernels --output "$results" "${tiny[@]}"
part serve 120 "$gpu" serve --output "$results" --quire "$quire" "${tiny[@]}"
part steps 420 "$gpu" steps --output "$results" "${tiny[@]}"
part peers 240 "$python" "$here/peers.py" "$results" "${tiny[@]}"
part memcheck 240 sanitized memcheck
part racecheck 240 sanitized racecheck
exit $failed
