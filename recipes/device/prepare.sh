# Sourced by the scripts for the device machine, from the repository's root: wheels that travelled are installed, packed
# images unpacked to $work/data, both once. Sets work, out, site, python and begun; see README.md.
work="${WORK:-/tmp/dpd-device}" out="${OUT:?names the folder that comes back}" site="${SITE:-/tmp/site}"
python="${PYTHON:-python3}" begun=$SECONDS
mkdir -p "$work"
export PYTHONPATH="$site:$PWD:$PWD/cli:$PWD/export:$PWD/neighbours" PYTHONUNBUFFERED=1 XDG_CACHE_HOME="$work/cache"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1

if [ -n "$(ls .whl/*.whl 2>/dev/null)" ] && [ ! -e "$site/installed" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
    touch "$site/installed"
fi
if [ -e recipes/device/packed ] && [ ! -e "$work/unpacked" ]; then
    rm -rf "$work/data"
    "$python" recipes/device/unpack.py recipes/device/packed "$work/data"
    touch "$work/unpacked"
fi

dpd() { "$python" -m dpd_cli "$@"; }
step() { echo "== $* (after $((SECONDS - begun)) s)" | tee -a "$out/log"; }
