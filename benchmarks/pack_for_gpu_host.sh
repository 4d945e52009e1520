#!/usr/bin/env bash
# Packs the project, and what it and its acceptance script need, for a GPU host without a network that has Python, torch and CuPy.
#
#   benchmarks/pack_for_gpu_host.sh OUT_DIR [PART_MIB=52] [CUDA=13] [PYTHON=3.12]
#
# On the host, with all parts in one folder:
#   cat parts/pack.tar.xz.* | xz -d | tar -x && cd dali-pipes
#   PYTHONPATH=$PWD/site python3 benchmarks/gpu_acceptance.py --out result.json
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd) part=${2:-52} cuda=${3:-13} python=${4:-3.12}
case $cuda in
  12 | 13) ;;
  *) echo "CUDA is 12 or 13, not $cuda" >&2; exit 2 ;;
esac
platforms=()
for n in _2_35 _2_34 _2_31 _2_28 _2_27 _2_24 _2_17 2014; do platforms+=(--platform "manylinux${n}_x86_64"); done
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
tree=$work/dali-pipes
mkdir -p "$tree"
git -C "$root" archive HEAD | tar -x -C "$tree"

# What pyproject.toml asks for, DALI for that CUDA, and what the tests marked gpu import, each with what it depends on; but not what
# the host has.
python3 - "$root/pyproject.toml" > "$work/wanted" <<'PY'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print("\n".join(each for each in project["dependencies"] if not each.startswith(("torch", "numpy", "nvidia-", "dali-pipes"))))
PY
python3 -m pip install -qq --only-binary=:all: --python-version "$python" --implementation cp "${platforms[@]}" --target "$tree/site" \
  -r "$work/wanted" "nvidia-dali-cuda${cuda}0>=2" pytest pytest-timeout hypothesis
rm -rf "$tree"/site/{numpy,torch,cupy}{,.libs,-*} "$tree"/site/bin
abi=cpython-${python/./}
find "$tree/site" -name '*.cpython-3*' ! -name "*$abi*" -delete
find "$tree/site" -name '__pycache__' -prune -exec rm -rf {} +
rm -f "$out"/pack.tar.xz.*
tar -C "$work" -c dali-pipes | xz -T0 -4 | split -b "${part}m" -d - "$out/pack.tar.xz."
du -sm "$out"/pack.tar.xz.*
