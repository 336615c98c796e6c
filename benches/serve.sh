#!/usr/bin/env bash
# Quire beside itself at two settings, in turn, as a page of HTML and as JSON.
#
#   serve.sh BINARIES MODEL OUTPUT "FLAGS OF A" "FLAGS OF B" [FLAGS OF quire-bench ...]
set -euo pipefail
binaries=$1 model=$2 output=$3 a=$4 b=$5
shift 5

ports=($(python3 -c 'import socket; s = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]; print(*[x.getsockname()[1] for x in s])'))
servers=()
trap 'kill "${servers[@]}" 2> /dev/null || true; wait' EXIT
logs=$(mktemp -d)
for index in 0 1; do
    flags=$([ "$index" = 0 ] && echo "$a" || echo "$b")
    # shellcheck disable=SC2086 # several flags
    "$binaries/quire" serve "$model" --port "${ports[$index]}" $flags > "$logs/$index" 2>&1 &
    servers+=($!)
done
# Servers that wait cost nothing, so both may stay up while one is loaded.
"$binaries/quire-bench" --ready-timeout 60 --allow-late \
    --base-url "http://127.0.0.1:${ports[0]}" --name "$a" --base-url "http://127.0.0.1:${ports[1]}" --name "$b" \
    --html "$output.html" --json "$output.json" "$@" || {
    status=$?
    tail -n 20 "$logs"/* >&2
    exit $status
}
echo "$output.html"
