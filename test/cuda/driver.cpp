// A GPU made of nothing: the part of libcuda.so.1 that edge_vision uses, strict where a real one is forgiving.
//
// - Work on a stream is done when someone waits for it and not before, so that whoever reads too early, or changes or
//   frees what a copy still needs, gets wrong results every time.
// - The GPU's addresses are nothing to the CPU and the CPU's nothing to the GPU; every access of a copy or a kernel's
//   argument is looked up among what is allocated.
// - Each thread needs its context; a thread that captures may neither wait nor allocate.
// - After an illegal address every call fails, as on a real GPU.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels.cpp"

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_WRONG_THREAD = 908,
};

const std::map<int, const char*> NAMES = {
    {SUCCESS, "CUDA_SUCCESS"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"},
};

typedef std::function<Result()> Work;

struct Queue {
    std::vector<Work> work;
    std::vector<uint64_t> addresses;  // that the work needs

    void add(const Queue& more) {
        work.insert(work.end(), more.work.begin(), more.work.end());
        addresses.insert(addresses.end(), more.addresses.begin(), more.addresses.end());
    }
};

typedef Queue Graph;

struct Stream {
    Queue waiting;
    Graph* capture = nullptr;
    bool broken = false;
    std::thread::id thread;
};

struct Event {
    Stream* stream = nullptr;
    std::chrono::steady_clock::time_point time;
};

struct Block {
    char* host;
    size_t size;
};

struct Kernel {
    const char* name;
    std::vector<size_t> sizes;
};

Kernel KERNELS[] = {
    {"letterbox", {8, 8, 8, 8, 8, 8, 8, 4, 4, 4}},
    {"take_float", {8, 8, 8, 8, 8, 4, 4, 4, 4}},
    {"take_half", {8, 8, 8, 8, 8, 4, 4, 4, 4}},
};

std::recursive_mutex mutex;
std::map<uint64_t, Block> gpu_memory;   // by the GPU's address
std::map<uint64_t, Block> host_memory;  // page-locked, by the CPU's address
std::vector<Stream*> streams;
uint64_t next_address = 0x00ad000000000000ull;  // no pointer of the CPU
Result lost = SUCCESS;
bool fails_next_kernel = false;
int allocations_left = 0;  // until one fails
int copies = 0, launches = 0, replays = 0;
int context, device_module;
thread_local void* current = nullptr;

Result complain(Result result, const char* what) {
    std::fprintf(stderr, "emulated GPU: %s\n", what);
    return result;
}

Result illegal(const char* what) { return lost = complain(ILLEGAL_ADDRESS, what); }

char* find(const std::map<uint64_t, Block>& blocks, uint64_t address, size_t size) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return nullptr;
    const auto& [start, block] = *std::prev(after);
    return address - start + size <= block.size ? block.host + (address - start) : nullptr;
}

Result usable() {
    if (lost) return lost;
    return current ? SUCCESS : INVALID_CONTEXT;
}

Stream* capturing_here() {
    for (Stream* stream : streams)
        if (stream->capture && stream->thread == std::this_thread::get_id()) return stream;
    return nullptr;
}

Result not_capturing() {
    if (const Result result = usable()) return result;
    if (Stream* stream = capturing_here()) {
        stream->broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    return SUCCESS;
}

bool is_needed(uint64_t start, size_t size) {
    for (Stream* stream : streams)
        for (uint64_t address : stream->waiting.addresses)
            if (address >= start && address < start + size) return true;
    return false;
}

Result put(Stream* stream, const Queue& work) {
    if (const Result result = usable()) return result;
    (stream->capture ? *stream->capture : stream->waiting).add(work);
    return SUCCESS;
}

Result flush(Stream* stream) {
    const Queue waiting = std::move(stream->waiting);
    stream->waiting = Queue();
    for (const Work& work : waiting.work) {
        if (lost) return lost;
        if (const Result result = work()) return lost = result;
    }
    return lost;
}

Result copy(Stream* stream, uint64_t target, uint64_t source, size_t size, bool to_gpu, bool from_gpu) {
    const Work work = [=] {
        char* to = find(to_gpu ? gpu_memory : host_memory, target, size);
        char* from = find(from_gpu ? gpu_memory : host_memory, source, size);
        if (!to || !from) return illegal("a copy from or to what is not allocated there, or is not page-locked");
        std::memmove(to, from, size);
        ++copies;
        return SUCCESS;
    };
    return put(stream, {{work}, {target, source}});
}

uint64_t add(char* host, size_t size) {
    const uint64_t address = next_address;
    next_address += (size + 0xfffff) & ~0xfffffull;
    gpu_memory[address] = {host, size};
    return address;
}

Result launch(Kernel* kernel, Index grid, Index block, std::vector<uint64_t> values) {
    if (fails_next_kernel) {
        fails_next_kernel = false;
        return illegal("a fault that was asked for");
    }
    std::vector<void*> arguments;
    for (size_t i = 0; i < values.size(); ++i) {
        if (kernel->sizes[i] == 8) {
            char* host = find(gpu_memory, values[i], 1);
            if (!host) return illegal("a kernel was given an address that is not the GPU's");
            values[i] = (uint64_t)host;
        }
        arguments.push_back(&values[i]);
    }
    ++launches;
    return run_kernel(kernel->name, grid.x, grid.y, block.x, block.y, arguments.data()) ? SUCCESS : NOT_FOUND;
}

}  // namespace

#define LOCKED std::lock_guard<std::recursive_mutex> lock(mutex)
#define NEEDS(condition) \
    if (const Result result = condition) return result

extern "C" {

Result cuInit(unsigned) { return std::getenv("EMULATED_NO_DEVICE") ? NO_DEVICE : SUCCESS; }
// CUDA's run-time compiler asks a driver for more than is documented, and makes do with an empty table.
Result cuGetExportTable(const void** table, const void*) {
    static const size_t size = sizeof size;
    return *table = &size, SUCCESS;
}

Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int* device, int) { return *device = 0, SUCCESS; }
Result cuDeviceTotalMem_v2(size_t* size, int) { return *size = 8ull << 30, SUCCESS; }

Result cuGetErrorName(int error, const char** name) {
    const auto found = NAMES.find(error);
    return found == NAMES.end() ? INVALID_VALUE : (*name = found->second, SUCCESS);
}

Result cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }

Result cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "Emulated"), SUCCESS; }

Result cuDeviceGetAttribute(int* value, int attribute, int) {
    const char* integrated = std::getenv("EMULATED_INTEGRATED");
    switch (attribute) {
        case 18: return *value = integrated && *integrated == '1', SUCCESS;
        case 75: return *value = 8, SUCCESS;
        case 76: return *value = 7, SUCCESS;
    }
    return INVALID_VALUE;
}

Result cuDevicePrimaryCtxRetain(void** handle, int) { return *handle = &context, SUCCESS; }
Result cuCtxSetCurrent(void* handle) { return current = handle, lost; }

Result cuMemAlloc_v2(uint64_t* address, size_t size) {
    LOCKED;
    NEEDS(not_capturing());
    if (!size) return INVALID_VALUE;
    if (!--allocations_left) return OUT_OF_MEMORY;
    return *address = add((char*)std::malloc(size), size), SUCCESS;
}

Result cuMemFree_v2(uint64_t address) {
    LOCKED;
    NEEDS(not_capturing());
    const auto block = gpu_memory.find(address);
    if (block == gpu_memory.end()) return INVALID_VALUE;
    if (is_needed(address, block->second.size)) return illegal("memory was freed that waiting work needs");
    std::free(block->second.host);
    return gpu_memory.erase(block), SUCCESS;
}

Result cuMemHostAlloc(void** host, size_t size, unsigned) {
    LOCKED;
    NEEDS(not_capturing());
    if (!--allocations_left) return OUT_OF_MEMORY;
    *host = std::malloc(size);
    host_memory[(uint64_t)*host] = {(char*)*host, size};
    return add((char*)*host, size), SUCCESS;
}

Result cuMemFreeHost(void* host) {
    LOCKED;
    NEEDS(not_capturing());
    const auto pinned = host_memory.find((uint64_t)host);
    if (pinned == host_memory.end()) return INVALID_VALUE;
    if (is_needed((uint64_t)host, pinned->second.size)) return illegal("memory was freed that waiting work needs");
    host_memory.erase(pinned);
    for (auto block = gpu_memory.begin(); block != gpu_memory.end();)
        block = block->second.host == host ? gpu_memory.erase(block) : std::next(block);
    return std::free(host), SUCCESS;
}

Result cuMemHostGetDevicePointer_v2(uint64_t* address, void* host, unsigned) {
    LOCKED;
    NEEDS(usable());
    for (const auto& [start, block] : gpu_memory)
        if (block.host == host) return *address = start, SUCCESS;
    return INVALID_VALUE;
}

Result cuMemsetD8Async(uint64_t address, unsigned char value, size_t size, Stream* stream) {
    LOCKED;
    const Work work = [=] {
        char* host = find(gpu_memory, address, size);
        return host ? (std::memset(host, value, size), SUCCESS) : illegal("what is not allocated was filled");
    };
    return put(stream, {{work}, {address}});
}

Result cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, Stream* stream) {
    LOCKED;
    return copy(stream, target, (uint64_t)source, size, true, false);
}

Result cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, Stream* stream) {
    LOCKED;
    return copy(stream, (uint64_t)target, source, size, false, true);
}

Result cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, Stream* stream) {
    LOCKED;
    return copy(stream, target, source, size, true, true);
}

Result cuStreamCreate(Stream** stream, unsigned flags) {
    LOCKED;
    NEEDS(not_capturing());
    if (flags != 1) return complain(INVALID_VALUE, "a stream that waits for the default stream");
    streams.push_back(*stream = new Stream);
    return SUCCESS;
}

Result cuStreamSynchronize(Stream* stream) {
    LOCKED;
    NEEDS(not_capturing());
    return flush(stream);
}

Result cuStreamDestroy_v2(Stream* stream) {
    LOCKED;
    NEEDS(usable());
    for (auto it = streams.begin(); it != streams.end(); ++it)
        if (*it == stream) {
            const Result result = stream->waiting.work.empty() ? SUCCESS : illegal("a stream was destroyed with its work");
            streams.erase(it);
            delete stream;
            return result;
        }
    return INVALID_HANDLE;
}

Result cuStreamBeginCapture_v2(Stream* stream, int mode) {
    LOCKED;
    NEEDS(usable());
    if (mode != 1 || stream->capture) return INVALID_VALUE;
    stream->capture = new Graph;
    stream->thread = std::this_thread::get_id();
    stream->broken = false;
    return SUCCESS;
}

Result cuStreamEndCapture(Stream* stream, Graph** graph) {
    LOCKED;
    NEEDS(usable());
    if (!stream->capture) return INVALID_VALUE;
    if (stream->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    *graph = stream->capture;
    stream->capture = nullptr;
    if (!stream->broken) return SUCCESS;
    delete *graph;
    *graph = nullptr;
    return CAPTURE_INVALIDATED;
}

Result cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    LOCKED;
    NEEDS(usable());
    return *executable = new Graph(*graph), SUCCESS;
}

Result cuGraphLaunch(Graph* executable, Stream* stream) {
    LOCKED;
    NEEDS(put(stream, *executable));
    return ++replays, SUCCESS;
}

Result cuGraphDestroy(Graph* graph) { return delete graph, SUCCESS; }
Result cuGraphExecDestroy(Graph* executable) { return delete executable, SUCCESS; }

Result cuModuleLoadData(void** module, const void* image) {
    NEEDS(usable());
    return std::memcmp(image, "\x7f" "ELF", 4) ? INVALID_IMAGE : (*module = &device_module, SUCCESS);
}

Result cuModuleGetFunction(Kernel** function, void* module, const char* name) {
    NEEDS(usable());
    if (module != &device_module) return INVALID_HANDLE;
    for (Kernel& kernel : KERNELS)
        if (!std::strcmp(kernel.name, name)) return *function = &kernel, SUCCESS;
    return NOT_FOUND;
}

Result cuLaunchKernel(Kernel* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned, Stream* stream, void** arguments, void**) {
    LOCKED;
    if (!grid_x || !grid_y || grid_z != 1 || block_z != 1 || block_x * block_y > 1024) return INVALID_VALUE;
    std::vector<uint64_t> values;
    for (size_t i = 0; i < kernel->sizes.size(); ++i) {
        uint64_t value = 0;
        std::memcpy(&value, arguments[i], kernel->sizes[i]);
        values.push_back(value);
    }
    const Index grid{(int)grid_x, (int)grid_y}, block{(int)block_x, (int)block_y};
    return put(stream, {{[=] { return launch(kernel, grid, block, values); }}, values});
}

Result cuLaunchHostFunc(Stream* stream, void (*function)(void*), void* data) {
    LOCKED;
    return put(stream, {{[=] { return function(data), SUCCESS; }}, {}});
}

Result cuEventCreate(Event** event, unsigned) { return *event = new Event, SUCCESS; }
Result cuEventDestroy_v2(Event* event) { return delete event, SUCCESS; }

Result cuEventRecord(Event* event, Stream* stream) {
    LOCKED;
    event->stream = stream;
    return put(stream, {{[=] { return event->time = std::chrono::steady_clock::now(), SUCCESS; }}, {}});
}

Result cuEventSynchronize(Event* event) {
    LOCKED;
    return event->stream ? flush(event->stream) : SUCCESS;
}

Result cuEventElapsedTime_v2(float* ms, Event* start, Event* end) {
    return *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count(), SUCCESS;
}

Result cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    static const std::map<std::string, void*> functions = {
#define FUNCTION(name) {#name, (void*)name}
#define VERSION_2(name) {#name, (void*)name##_v2}
        FUNCTION(cuInit), FUNCTION(cuDriverGetVersion), FUNCTION(cuDeviceGetCount), FUNCTION(cuDeviceGet),
        VERSION_2(cuDeviceTotalMem), FUNCTION(cuGetErrorName), FUNCTION(cuGetErrorString), FUNCTION(cuDeviceGetName),
        FUNCTION(cuDeviceGetAttribute), FUNCTION(cuDevicePrimaryCtxRetain), FUNCTION(cuCtxSetCurrent),
        VERSION_2(cuMemAlloc), VERSION_2(cuMemFree), FUNCTION(cuMemHostAlloc), FUNCTION(cuMemFreeHost),
        VERSION_2(cuMemHostGetDevicePointer), FUNCTION(cuMemsetD8Async), VERSION_2(cuMemcpyHtoDAsync),
        VERSION_2(cuMemcpyDtoHAsync), VERSION_2(cuMemcpyDtoDAsync), FUNCTION(cuStreamCreate),
        FUNCTION(cuStreamSynchronize), VERSION_2(cuStreamDestroy), VERSION_2(cuStreamBeginCapture),
        FUNCTION(cuStreamEndCapture), FUNCTION(cuGraphInstantiateWithFlags), FUNCTION(cuGraphLaunch),
        FUNCTION(cuGraphDestroy), FUNCTION(cuGraphExecDestroy), FUNCTION(cuModuleLoadData),
        FUNCTION(cuModuleGetFunction), FUNCTION(cuLaunchKernel), FUNCTION(cuLaunchHostFunc), FUNCTION(cuEventCreate),
        VERSION_2(cuEventDestroy), FUNCTION(cuEventRecord), FUNCTION(cuEventSynchronize),
        VERSION_2(cuEventElapsedTime), {"cuGraphInstantiate", (void*)cuGraphInstantiateWithFlags},
    };
    const auto found = functions.find(symbol);
    *function = found == functions.end() ? nullptr : found->second;
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

// What tests ask of the emulation itself.
void* emulated_memory(uint64_t address, size_t size) {
    LOCKED;
    return find(gpu_memory, address, size);
}

void emulated_fault() { fails_next_kernel = true; }
void emulated_shortage(int allocation) { allocations_left = allocation; }

size_t emulated_blocks() {
    LOCKED;
    return gpu_memory.size() + streams.size();
}

void emulated_counts(int* counts) {
    counts[0] = copies;
    counts[1] = launches;
    counts[2] = replays;
}

void emulated_break_capture(Stream* stream) {
    LOCKED;
    if (stream->capture) stream->broken = true;
}

bool emulated_is_capturing(Stream* stream) { return stream->capture; }
}
