#!/usr/bin/env bash
# Packs the project, and what it and its acceptance script need, for a GPU host without a network that has Python, pip, torch and CuPy.
#
#   benchmarks/pack_for_gpu_host.sh OUT_DIR [PART_MIB=52] [CUDA=13] [PYTHON=3.12]
#
# OUT_DIR/wheels is kept: a second run fetches only what is missing. OUT_DIR/parts is what travels: pack.tar.NNN, their SHA256SUMS, and
# unpack.sh. About 290 MiB; wheels are compressed already. On the host, with all of that in one folder:
#
#   sh unpack.sh && cd dali-pipes && PYTHONPATH=$PWD/site python3 benchmarks/gpu_acceptance.py --out result.json
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^#\( \|$\)//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd) part=${2:-52} cuda=${3:-13} python=${4:-3.12}
case $cuda in
  12 | 13) ;;
  *) echo "CUDA is 12 or 13, not $cuda" >&2; exit 2 ;;
esac
platforms=()
for n in _2_35 _2_34 _2_31 _2_28 _2_27 _2_24 _2_17 2014; do platforms+=(--platform "manylinux${n}_x86_64"); done
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
tree=$work/dali-pipes wheels=$out/wheels/cuda$cuda-python$python
mkdir -p "$tree" "$wheels" "$work/wheels"

# The project as committed, with its passes in C where they can be built here.
git -C "$root" archive HEAD | tar -x -C "$tree"
passes=$tree/dali_pipes/compiled
cc -std=c11 -O3 -ffp-contract=off -shared -fPIC "$passes"/*.c -lpthread -o "$passes/_passes.so" || echo "no C compiler: NumPy does that work" >&2

# What pyproject.toml asks for, DALI for that CUDA, and what the tests marked gpu import, each with what it depends on; but not what
# the host has.
python3 - "$root/pyproject.toml" > "$work/wanted" <<'PY'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print("\n".join(each for each in project["dependencies"] if not each.startswith(("torch", "numpy", "nvidia-", "dali-pipes"))))
PY
python3 -m pip download -q --only-binary=:all: --python-version "$python" --implementation cp "${platforms[@]}" --dest "$wheels" \
  -r "$work/wanted" "nvidia-dali-cuda${cuda}0>=2" pytest pytest-timeout hypothesis
find "$wheels" -name '*.whl' ! -name 'numpy-*' -exec ln -s {} "$work/wheels" \;

rm -rf "$out/parts"
mkdir "$out/parts"
# Wheels first, and nothing of the time of packing: after a change of the project only the last part differs.
tar -C "$work" -ch --sort=name --mtime=@0 --owner=0 --group=0 wheels dali-pipes | split -b "${part}m" -d -a 3 - "$out/parts/pack.tar."
cat > "$out/parts/unpack.sh" <<'SH2'
# Checks the parts, and unpacks them and their wheels below the current folder; needs no network.
set -e
here=$(cd "$(dirname "$0")" && pwd)
(cd "$here" && sha256sum --quiet -c SHA256SUMS) || { echo "bring the parts named above once more" >&2; exit 1; }
cat "$here"/pack.tar.* | tar -x
python3 -m pip install -q --no-index --no-deps --no-warn-script-location --target dali-pipes/site wheels/*.whl
rm -r wheels
SH2
(cd "$out/parts" && sha256sum pack.tar.* > SHA256SUMS)
du -m "$out"/parts/pack.tar.*
du -sm "$out/parts"
