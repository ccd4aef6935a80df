#!/usr/bin/env bash
# run.sh VENV BUILD ARGS...: Python of VENV (torch's CUDA build, this project's dependencies) on the phantom GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) venv=$1 build=$(cd "$2" && pwd)
shift 2
export LD_LIBRARY_PATH=$build TORCH_CUDNN_V8_API_DISABLED=1 TRITON_LIBCUDA_PATH=$build OMP_NUM_THREADS=1
export PYTHONPATH=$here:$here/../../benchmarks${PYTHONPATH:+:$PYTHONPATH}
LD_PRELOAD="$build/libcuda.so.1 $build/libnvrtc.so.13" exec "$venv/bin/python" "$@"
