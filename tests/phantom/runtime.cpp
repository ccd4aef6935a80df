// A GPU that is not there: every call succeeds, kernels do nothing, memory is host memory.
#define __CUDA_API_VERSION_INTERNAL
#include <cuda_runtime_api.h>
#include <cuda.h>
#include <sys/mman.h>
#include <dlfcn.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <unordered_map>
#include <string>
#include <mutex>
#include <algorithm>
#include <atomic>
#include <execinfo.h>
#define X extern "C" __attribute__((visibility("default")))
static std::mutex M;
// What CUDA forbids while a stream is captured; PHANTOM_TRACE=1 says who asked.
static std::atomic<int> cap_invalid{0};
static void forbidden(const char* what) { cap_invalid = 1; fprintf(stderr, "PHANTOM: %s while capturing\n", what); if (getenv("PHANTOM_TRACE")) { void* b[40]; backtrace_symbols_fd(b, backtrace(b, 40), 2); } }
struct Reg { size_t size; int kind; int dev; };
static std::map<char*, Reg>& regs() { static auto* m = new std::map<char*, Reg>; return *m; }
static std::unordered_map<const void*, std::string>& names() { static auto* m = new std::unordered_map<const void*, std::string>; return *m; }
static std::unordered_map<std::string, long>& counts() { static auto* m = new std::unordered_map<std::string, long>; return *m; }
static size_t allocated = 0; static size_t limit_ = (size_t)((getenv("PHANTOM_GB") ? atof(getenv("PHANTOM_GB")) : 80.0) * (1ull << 30));
static int visible() { const char* v = getenv("CUDA_VISIBLE_DEVICES"); if (!v) return 1 << 20; if (!*v || *v == '-') return 0; int n = 1; for (; *v; v++) n += *v == ','; return n; }
static int ndev() { static int n = std::min(getenv("PHANTOM_N") ? atoi(getenv("PHANTOM_N")) : 1, visible()); return n; }
static int cc() { static int n = getenv("PHANTOM_CC") ? atoi(getenv("PHANTOM_CC")) : 90; return n; }
static thread_local int current = 0;
extern "C" int phantom_forbids(cudaStream_t); extern "C" int phantom_capturing(); static int phantom_capturing_() { return phantom_capturing(); }
X void phantom_count(const char* n) { std::lock_guard<std::mutex> g(M); counts()[n]++; }
X void phantom_reset() { std::lock_guard<std::mutex> g(M); counts().clear(); }
X void phantom_dump(const char* path) { std::lock_guard<std::mutex> g(M); FILE* f = fopen(path, "w"); for (auto& p : counts()) fprintf(f, "%ld\t%s\n", p.second, p.first.c_str()); fclose(f); }
extern "C" void phantom_node(); static void bad(const char* what, dim3 g, dim3 b, const char* name) { fprintf(stderr, "PHANTOM: invalid launch (%s) grid %u,%u,%u block %u,%u,%u of %s\n", what, g.x, g.y, g.z, b.x, b.y, b.z, name); }
static cudaError_t launch(const char* name, dim3 g, dim3 b) {
  { std::lock_guard<std::mutex> l(M); counts()[std::string("K ") + name]++; phantom_node(); }
  if (g.y > 65535 || g.z > 65535 || g.x > 2147483647u || !g.x || !g.y || !g.z || b.x * b.y * b.z > 1024 || !(b.x * b.y * b.z) || b.z > 64) { bad("limits", g, b, name); return cudaErrorInvalidConfiguration; }
  return cudaSuccess;
}
static const char* nameof(const void* f) { std::lock_guard<std::mutex> l(M); auto i = names().find(f); return i == names().end() ? "?" : i->second.c_str(); }
static void* map_(size_t n, int kind) {
  size_t size = (n + 4095) / 4096 * 4096 + 4096;
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  std::lock_guard<std::mutex> g(M); regs()[(char*)p] = {size, kind, current}; if (kind == 2) allocated += size; return p;
}
static void unmap(void* p) { std::lock_guard<std::mutex> g(M); auto i = regs().find((char*)p); if (i == regs().end()) return; munmap(p, i->second.size); if (i->second.kind == 2) allocated -= i->second.size; regs().erase(i); }
static bool find(const void* p, Reg* r) { std::lock_guard<std::mutex> g(M); auto i = regs().upper_bound((char*)p); if (i == regs().begin()) return false; --i; if ((char*)p >= i->first + i->second.size) return false; *r = i->second; return true; }
X size_t phantom_allocated() { return allocated; }
// ---- registration
X void** __cudaRegisterFatBinary(void*) { static void* h; return &h; }
X void __cudaRegisterFatBinaryEnd(void**) {}
X void __cudaUnregisterFatBinary(void**) {}
X void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
X char __cudaInitModule(void**) { return 1; }
X void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) { std::lock_guard<std::mutex> g(M); names()[host] = name; }
X cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) { *k = (cudaKernel_t)f; return cudaSuccess; }
X cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void**, size_t, cudaStream_t) { return launch(nameof((void*)k), g, b); }
static thread_local struct { dim3 g, b; size_t s; void* st; } conf;
X unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st* st) { conf.g = g; conf.b = b; conf.s = s; conf.st = st; return 0; }
X cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* st) { *g = conf.g; *b = conf.b; *s = conf.s; *(void**)st = conf.st; return cudaSuccess; }
X cudaError_t cudaLaunchKernel(const void* f, dim3 g, dim3 b, void**, size_t, cudaStream_t) { return launch(nameof(f), g, b); }
X cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void**) { return launch(nameof(f), c->gridDim, c->blockDim); }
// ---- device
X cudaError_t cudaGetDeviceCount(int* n) { *n = ndev(); return cudaSuccess; }
X cudaError_t cudaGetDevice(int* d) { *d = current; return cudaSuccess; }
X cudaError_t cudaSetDevice(int d) { current = d; return cudaSuccess; }
X cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
X cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
static int attribute(int a) {
  switch (a) {
    case 1: return 1024; case 2: case 3: return 1024; case 4: return 64; case 5: return 2147483647; case 6: case 7: return 65535;
    case 8: return 49152; case 9: return 65536; case 10: return 32; case 12: return 65536; case 13: return 1980000; case 16: return 132; case 39: return 2048;
    case 75: return cc() / 10; case 76: return cc() % 10; case 81: return 233472; case 82: return 65536; case 97: return 232448; case 106: return 32; case 36: return 2619000; case 37: return 5120; case 38: return 50 << 20; case 41: return 1; case 111: return 1024; }
  return 0;
}
X cudaError_t cudaDeviceGetAttribute(int* v, enum cudaDeviceAttr a, int) { *v = attribute(a); return cudaSuccess; }
X cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p); strcpy(p->name, "NVIDIA Phantom"); p->totalGlobalMem = limit_; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536; p->warpSize = 32;
  p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64; p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->major = cc() / 10; p->minor = cc() % 10; p->multiProcessorCount = 132; p->maxThreadsPerMultiProcessor = 2048; p->sharedMemPerMultiprocessor = 233472; p->sharedMemPerBlockOptin = 232448; p->regsPerMultiprocessor = 65536; p->textureAlignment = 512; p->l2CacheSize = 50 << 20; p->memoryBusWidth = 5120; p->concurrentKernels = 1;
  return cudaSuccess; }
X cudaError_t cudaDeviceGetStreamPriorityRange(int* l, int* g) { if (l) *l = 0; if (g) *g = -5; return cudaSuccess; }
X cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int d) { snprintf(s, n, "0000:0%d:00.0", d); return cudaSuccess; }
X cudaError_t cudaDeviceCanAccessPeer(int* c, int, int) { *c = 1; return cudaSuccess; }
X cudaError_t cudaDeviceSynchronize()  { if (phantom_capturing_()) { forbidden(__func__); return cudaErrorStreamCaptureUnsupported; } phantom_count("SYNC cudaDeviceSynchronize"); return cudaSuccess; }
X cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { *t = limit_; *f = limit_ - allocated; return cudaSuccess; }
X cudaError_t cudaMalloc(void** p, size_t n) { phantom_count("cudaMalloc"); if (allocated + n > limit_) { *p = nullptr; return cudaErrorMemoryAllocation; } *p = map_(n, 2); return cudaSuccess; }
X cudaError_t cudaFree(void* p) { unmap(p); return cudaSuccess; }
X cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { phantom_count("cudaHostAlloc"); *p = map_(n, 1); return cudaSuccess; }
X cudaError_t cudaFreeHost(void* p) { unmap(p); return cudaSuccess; }
static void copy(void* d, const void* s, size_t n) { memcpy(d, s, n); }
X cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t) { static const char* w[] = {"H2H","H2D","D2H","D2D","default"}; Reg a, b; bool hs = find(s, &a), hd = find(d, &b); std::string t = std::string("MEMCPY ") + w[k]; if (k == 1) t += hs && a.kind == 1 ? " pinned" : " PAGEABLE"; if (k == 2) t += hd && b.kind == 1 ? " pinned" : " PAGEABLE"; if (phantom_capturing_() && (k == 1 || k == 2) ) { fprintf(stderr, "PHANTOM: %s while capturing\n", t.c_str()); if (t.find("PAGEABLE") != std::string::npos) return cudaErrorStreamCaptureUnsupported; } phantom_count(t.c_str()); copy(d, s, n); return cudaSuccess; }
X cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind)  { if (phantom_capturing_()) { forbidden(__func__); return cudaErrorStreamCaptureUnsupported; } phantom_count("SYNC cudaMemcpy"); copy(d, s, n); return cudaSuccess; }
X cudaError_t cudaMemcpyPeerAsync(void* d, int, const void* s, int, size_t n, cudaStream_t) { copy(d, s, n); return cudaSuccess; }
X cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
X cudaError_t cudaMemset(void* d, int v, size_t n) { phantom_count("MEMSET"); if (v || n < (1 << 20)) memset(d, v, n); return cudaSuccess; }
X cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t) { phantom_count("MEMSET"); if (v || n < (1 << 20)) memset(d, v, n); return cudaSuccess; }
X cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) { memset(a, 0, sizeof *a); Reg r; if (find(p, &r)) { a->type = r.kind == 2 ? cudaMemoryTypeDevice : cudaMemoryTypeHost; a->device = r.dev; a->devicePointer = (void*)p; a->hostPointer = (void*)p; } return cudaSuccess; }
X cudaError_t cudaGetSymbolAddress(void** p, const void*) { static char buffer[1 << 16]; *p = buffer; return cudaSuccess; }
X cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) { memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = a->ptxVersion = cc(); a->maxDynamicSharedSizeBytes = 49152; return cudaSuccess; }
X cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 2; return cudaSuccess; }
// ---- events, streams
X cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = (cudaEvent_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = (cudaEvent_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
X cudaError_t cudaEventElapsedTime(float* t, cudaEvent_t, cudaEvent_t) { *t = 1; return cudaSuccess; }
X cudaError_t cudaEventSynchronize(cudaEvent_t)  { if (phantom_capturing_()) { forbidden(__func__); return cudaErrorStreamCaptureUnsupported; } phantom_count("SYNC cudaEventSynchronize"); return cudaSuccess; }
static cudaError_t stream(cudaStream_t* s) { *s = (cudaStream_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaStreamCreate(cudaStream_t* s) { return stream(s); }
X cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return stream(s); }
X cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return stream(s); }
X cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
X cudaError_t cudaStreamSynchronize(cudaStream_t s) { if (phantom_forbids(s)) { forbidden(__func__); return cudaErrorStreamCaptureUnsupported; } phantom_count("SYNC cudaStreamSynchronize"); return cudaSuccess; }
// ---- capture (review): one captured stream at a time; what CUDA forbids while capturing is an error
static std::atomic<int> cap_on{0}; static cudaStream_t cap_stream; static long cap_nodes, graph_nodes; static thread_local int cap_relaxed = 0;
X int phantom_capturing() { return cap_on; }
// A thread that has relaxed its mode, as torch does to set its generators, may wait for another stream.
X int phantom_forbids(cudaStream_t s) { return cap_on && (s == cap_stream || !cap_relaxed); }
X cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode* m) { int n = *m == cudaStreamCaptureModeRelaxed; *m = cap_relaxed ? cudaStreamCaptureModeRelaxed : cudaStreamCaptureModeGlobal; cap_relaxed = n; return cudaSuccess; }
X cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode) { cap_stream = s; cap_on = 1; cap_nodes = 0; cap_invalid = 0; return cudaSuccess; }
X cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) { cap_on = 0; if (cap_invalid) { *g = nullptr; return cudaErrorStreamCaptureInvalidated; } graph_nodes = cap_nodes; *g = (cudaGraph_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* n) { *n = graph_nodes; return cudaSuccess; }
X cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* e, cudaGraph_t, unsigned long long) { *e = (cudaGraphExec_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { phantom_count("K GRAPH"); return cudaSuccess; }
X cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus* r) { *r = cap_on && s == cap_stream ? cap_invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone; return cudaSuccess; }
X cudaError_t cudaStreamGetCaptureInfo(cudaStream_t t, enum cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t* g, const cudaGraphNode_t** d, const cudaGraphEdgeData** e, size_t* n) { bool a = cap_on && t == cap_stream; *s = a ? cap_invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone; if (id) *id = a ? 7 : 0; if (g) *g = (cudaGraph_t)8; if (d) *d = nullptr; if (e) *e = nullptr; if (n) *n = 0; return cudaSuccess; }
X const char* cudaGetErrorString(cudaError_t) { return "phantom error"; }
X const char* cudaGetErrorName(cudaError_t) { return "phantomError"; }
static int zero() { return 0; }
X cudaError_t cudaGetDriverEntryPointByVersion(const char* s, void** f, unsigned, unsigned long long, enum cudaDriverEntryPointQueryResult* r) { *f = dlsym(RTLD_DEFAULT, s); if (!*f) *f = (void*)zero; if (r) *r = cudaDriverEntryPointSuccess; return cudaSuccess; }
// ---- driver
struct Fn { std::string name; };
X CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
X CUresult cuDriverGetVersion(int* v) { *v = 13000; return CUDA_SUCCESS; }
X CUresult cuDeviceGetCount(int* n) { *n = ndev(); return CUDA_SUCCESS; }
X CUresult cuDeviceGet(CUdevice* d, int i) { *d = i; return CUDA_SUCCESS; }
X CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute a, CUdevice) { *v = attribute(a); return CUDA_SUCCESS; }
X CUresult cuCtxGetCurrent(CUcontext* c) { *c = (CUcontext)1; return CUDA_SUCCESS; }
X CUresult cuCtxGetDevice(CUdevice* d) { *d = current; return CUDA_SUCCESS; }
X CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
X CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) { *c = (CUcontext)1; return CUDA_SUCCESS; }
X CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* f, int* a) { if (f) *f = 0; if (a) *a = 1; return CUDA_SUCCESS; }
X CUresult cuModuleLoadData(CUmodule* m, const void*) { phantom_count("cuModuleLoadData"); *m = (CUmodule)1; return CUDA_SUCCESS; }
X CUresult cuModuleLoadDataEx(CUmodule* m, const void*, unsigned, CUjit_option*, void**) { *m = (CUmodule)1; return CUDA_SUCCESS; }
X CUresult cuModuleGetFunction(CUfunction* f, CUmodule, const char* n) { *f = (CUfunction) new Fn{n}; return CUDA_SUCCESS; }
X CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
X CUresult cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction) { *v = a == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0; return CUDA_SUCCESS; }
X CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
X CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
X CUresult cuGetErrorString(CUresult, const char** s) { *s = "phantom"; return CUDA_SUCCESS; }
X CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void**, void**) { return (CUresult)launch((std::string("triton ") + ((Fn*)f)->name).c_str(), dim3(c->gridDimX, c->gridDimY, c->gridDimZ), dim3(c->blockDimX, c->blockDimY, c->blockDimZ)); }
X CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned, CUstream, void**, void**) { return (CUresult)launch((std::string("drv ") + ((Fn*)f)->name).c_str(), dim3(a, b, c), dim3(d, e, g)); }
X CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, CUfunction, int, size_t) { *n = 2; return CUDA_SUCCESS; }
X CUresult cuPointerGetAttribute(void* d, CUpointer_attribute a, CUdeviceptr p) { Reg r; if (!find((void*)p, &r)) return CUDA_ERROR_INVALID_VALUE; if (a == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr*)d = p; else if (a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *(int*)d = r.dev; else *(int*)d = r.kind; return CUDA_SUCCESS; }
X int nvrtcCreateProgram(void** p, const char*, const char* n, int, const char* const*, const char* const*) { *p = malloc(8); phantom_count("nvrtcCreateProgram"); return 0; }
X int nvrtcCompileProgram(void*, int, const char* const*) { return 0; }
X int nvrtcDestroyProgram(void** p) { return 0; }
X int nvrtcGetCUBINSize(void*, size_t* n) { *n = 16; return 0; }
X int nvrtcGetPTXSize(void*, size_t* n) { *n = 16; return 0; }
X int nvrtcGetProgramLogSize(void*, size_t* n) { *n = 1; return 0; }
X int nvrtcGetCUBIN(void*, char* c) { memset(c, 0, 16); return 0; }
X int nvrtcGetPTX(void*, char* c) { memset(c, 0, 16); return 0; }
X int nvrtcGetProgramLog(void*, char* c) { *c = 0; return 0; }
X int nvrtcGetLoweredName(void*, const char*, const char** n) { *n = "jit"; return 0; }
X int nvrtcAddNameExpression(void*, const char*) { return 0; }

X void phantom_node() { if (cap_on) cap_nodes++; }
