#!/usr/bin/env bash
# The demo: the main job in small.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -e runs/demo ]; then
  echo "removing runs/demo, the folder of an earlier demo"
  rm -rf runs/demo
fi
exec tools/two_ranks.sh configs/demo.yaml
