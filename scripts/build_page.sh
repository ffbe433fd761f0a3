#!/usr/bin/env bash
# Build the report page's assets from sidecar/report/page/src: run after a change there, commit both.
#
#   scripts/build_page.sh           needs npm; installs into .cache/page, writes page/assets
#   scripts/build_page.sh --check   fails where the committed assets are not what the source builds
set -euo pipefail

cd "$(dirname "$0")/.."
cache=.cache/page
page=sidecar/report/page
packages=(
  esbuild@0.28.2               # MIT: bundles
  @observablehq/plot@0.6.17    # ISC: charts
  topojson-client@3.1.0        # ISC: reads the map
  world-atlas@2.0.2            # ISC; Natural Earth, public domain: the map
  axe-core@4.14.1              # MPL-2.0: checks accessibility in the tests; not shipped
)

# No lock file: it would name the registry that the packages came from.
if [[ "$(cat "$cache/.installed" 2>/dev/null)" != "${packages[*]}" ]]; then
  rm -rf "$cache" && mkdir -p "$cache"
  npm install --prefix "$cache" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund \
    --loglevel=error "${packages[@]}"
  echo "${packages[*]}" >"$cache/.installed"
fi

out=$page/assets
if [[ "${1:-}" == --check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
banner='/* Observable Plot, D3, topojson-client: ISC. See NOTICE.txt. */'
for entry in page plain; do
  NODE_PATH=$cache/node_modules "$cache/node_modules/.bin/esbuild" "$page/src/$entry.js" --bundle --minify \
    --format=iife --target=es2022 --charset=ascii --legal-comments=none --log-level=warning \
    --banner:js="$banner" --outfile="$out/$entry.js"
done
cp "$cache/node_modules/world-atlas/land-110m.json" "$out/world.json"

if [[ "${1:-}" == --check ]]; then
  for file in page.js plain.js world.json; do
    cmp "$out/$file" "$page/assets/$file" || { echo "run scripts/build_page.sh and commit" >&2; exit 1; }
  done
fi
