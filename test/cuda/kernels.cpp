// The kernels of edge_vision/cuda/kernels.cu as plain functions over the whole grid.
#include "shim.h"

#include "kernels.cu"

#define ARGUMENT(type, i) (*(type*)arguments[i])

// Runs a kernel with its arguments given by their addresses, as CUDA takes them; false: there is none of that name.
extern "C" bool run_kernel(const char* name, int grid_x, int grid_y, int block_x, int block_y, void** arguments) {
    const Index grid{grid_x, grid_y}, block{block_x, block_y};
    if (!std::strcmp(name, "letterbox"))
        every_thread(grid, block, [&] {
            letterbox(ARGUMENT(const Job*, 0), ARGUMENT(const unsigned int*, 1), ARGUMENT(const Tap*, 2),
                      ARGUMENT(const Tap*, 3), ARGUMENT(const unsigned char*, 4), ARGUMENT(void*, 5),
                      ARGUMENT(Header*, 6), ARGUMENT(int, 7), ARGUMENT(int, 8), ARGUMENT(int, 9));
        });
    else if (!std::strcmp(name, "take_float"))
        every_thread(grid, block, [&] {
            take_float(ARGUMENT(const Job*, 0), ARGUMENT(const float*, 1), ARGUMENT(Header*, 2), ARGUMENT(int*, 3),
                       ARGUMENT(float*, 4), ARGUMENT(int, 5), ARGUMENT(int, 6), ARGUMENT(int, 7), ARGUMENT(int, 8));
        });
    else if (!std::strcmp(name, "take_half"))
        every_thread(grid, block, [&] {
            take_half(ARGUMENT(const Job*, 0), ARGUMENT(const unsigned short*, 1), ARGUMENT(Header*, 2),
                      ARGUMENT(int*, 3), ARGUMENT(unsigned short*, 4), ARGUMENT(int, 5), ARGUMENT(int, 6),
                      ARGUMENT(int, 7), ARGUMENT(int, 8));
        });
    else
        return false;
    return true;
}

extern "C" float number_of_half(unsigned short half) { return number(half); }
