#!/usr/bin/env bash
# The suite under a sanitizer: tests/sanitize.sh asan|valgrind [short|full|PYTEST...]
#
# asan: AddressSanitizer and UBSan, by any gcc or clang that has their shared runtimes.
# valgrind: memcheck over the debug build; slow.
# short (the default) is what .ci/run calls. Where a tool is missing it is left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH VIRTUAL_ENV

tool=${1:-asan}
shift || true
python=${PYTHON:-python3}
work=${SANITIZE_DIR:-build/sanitize}/$tool

left_out() {
  echo "$tool: $1: left out"
  exit 0
}

case $tool in
asan)
  build=asan
  compiler=$("$python" -c 'import os, sysconfig
print(os.environ.get("CC") or sysconfig.get_config_var("CC"))')
  probe=$(mktemp -d)
  trap 'rm -rf "$probe"' EXIT
  echo 'int main(void) { return 0; }' > "$probe/probe.c"
  # CC may be several words.
  # shellcheck disable=SC2086
  $compiler -fsanitize=address,undefined "$probe/probe.c" -o "$probe/probe" \
    2> /dev/null && "$probe/probe" || left_out "$compiler has no sanitizers here"
  # Extension modules cannot bring the runtimes: they are loaded before Python.
  runtimes=()
  for name in libasan.so libubsan.so "libclang_rt.asan-$(uname -m).so"; do
    # shellcheck disable=SC2086
    path=$($compiler -print-file-name="$name")
    [ ! -f "$path" ] || runtimes+=("$(realpath "$path")")
  done
  [ ${#runtimes[@]} -gt 0 ] || left_out "$compiler has no shared runtime"
  case $compiler in
  *clang*) export LDSHARED="$compiler -shared -shared-libasan" ;;
  esac
  short="unit/wire unit/buffers unit/link unit/tls/test_engines.py
    unit/tls/test_long_connections.py unit/test_fuzz_corpus.py
    integration/test_hostile_peer.py"
  # No leaks: CPython keeps much until its end, and tests/conftest.py looks for ours.
  run=(env "LD_PRELOAD=${runtimes[*]}" ASAN_OPTIONS=detect_leaks=0
    UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc)
  timeout=300
  ;;
valgrind)
  build=debug
  command -v valgrind > /dev/null || left_out "it is not installed"
  short="unit/wire/test_hello.py unit/buffers unit/link/test_cancelled_calls.py
    unit/test_fuzz_corpus.py"
  run=(env PYTHONMALLOC=malloc valgrind -q --error-exitcode=99 --leak-check=no
    --num-callers=30 --suppressions=tests/valgrind.supp)
  timeout=3600
  ;;
*)
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac

# SANITIZE_VENV: an environment that has this build already.
if [ -n "${SANITIZE_VENV:-}" ]; then
  work=$SANITIZE_VENV
else
  "$python" -m venv "$work"
  FASTNODE_BUILD=$build "$work/bin/pip" install -q '.[test]'
fi

arguments=()
case ${1:-short} in
short)
  # State machines try much and are slow here; the fuzzer's corpus goes the same ways.
  arguments=(-k "not machine")
  for each in $short; do arguments+=("tests/$each"); done
  ;;
full) arguments=(tests) ;;
*) arguments=("$@") ;;
esac
"${run[@]}" "$work/bin/python" -m pytest -q -o timeout="$timeout" "${arguments[@]}"
