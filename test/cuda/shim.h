// What kernels.cu needs of CUDA, for a plain C++ compiler: the threads of a launch run one after the other.
#pragma once
#include <cstddef>
#include <cstring>

#define __global__
#define __device__

struct Index {
    int x, y;
};

static thread_local Index blockIdx, threadIdx, blockDim, gridDim;

static inline unsigned int atomicAdd(unsigned int* address, unsigned int value) {
    const unsigned int old = *address;
    *address += value;
    return old;
}

static inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// backwards: the order of threads is nothing to rely on
template <typename Body>
void every_thread(Index grid, Index block, Body body) {
    gridDim = grid;
    blockDim = block;
    for (blockIdx.y = grid.y - 1; blockIdx.y >= 0; --blockIdx.y)
        for (blockIdx.x = grid.x - 1; blockIdx.x >= 0; --blockIdx.x)
            for (threadIdx.y = block.y - 1; threadIdx.y >= 0; --threadIdx.y)
                for (threadIdx.x = block.x - 1; threadIdx.x >= 0; --threadIdx.x) body();
}
