#!/bin/bash
# uv, in a folder of its own: tools/install-uv.sh FOLDER. Nothing of the system's Python is changed.
set -euo pipefail
folder=$1
# Debian packs venv and ensurepip apart from Python.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends python3-venv
fi
rm -rf "$folder.new"
python3 -m venv "$folder.new"
"$folder.new/bin/python" -m pip install -q --disable-pip-version-check uv
rm -rf "$folder"
mv "$folder.new" "$folder"
