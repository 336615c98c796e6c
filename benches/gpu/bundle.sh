#!/usr/bin/env bash
# Packs what a GPU host needs that has no Rust, no compiler and no network: target/gpu-bundle.tar.gz.
#
#   bundle.sh BINARIES   the folder with the built `quire` and `gpu`
set -euo pipefail
binaries=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bundle=$binaries/../gpu-bundle
most=$((60 << 20))

rm -rf "$bundle"
mkdir -p "$bundle"
for program in quire gpu; do
    strip -o "$bundle/$program" "$binaries/$program"
    # Other libraries than glibc's may be missing there, or be of another release.
    needed=$(readelf -d "$bundle/$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    for library in $needed; do
        case $library in
            libc.so.6 | libm.so.6 | libgcc_s.so.1 | libpthread.so.0 | libdl.so.2 | librt.so.1 | ld-linux-*) ;;
            *) echo "$program needs $library, which a GPU host may not have" >&2 && exit 1 ;;
        esac
    done
    # Of 2021: what GPU hosts run is newer.
    oldest=$(objdump -T "$bundle/$program" | sed -n 's/.*GLIBC_\([0-9.]*\)).*/\1/p' | sort -uV | tail -1)
    echo "$program needs glibc $oldest"
    [ "$(printf '%s\n' "$oldest" 2.34 | sort -V | tail -1)" = 2.34 ] || {
        echo "$program needs glibc $oldest, newer than 2.34" >&2 && exit 1
    }
done
cp "$here/run.sh" "$here/peers.py" "$bundle"
tar -C "$bundle/.." -czf "$bundle.tar.gz" gpu-bundle
size=$(stat -c %s "$bundle.tar.gz")
echo "$(realpath "$bundle.tar.gz"): $((size >> 20)) MiB"
[ "$size" -lt "$most" ] || { echo "more than $((most >> 20)) MiB" >&2 && exit 1; }
