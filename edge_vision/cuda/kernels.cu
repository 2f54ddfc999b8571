// What the GPU does before and after the network: one kernel each. edge_vision/cuda/layout.py describes the same
// memory from the other side. There is no floating point before the network: positions, weights and levels come as
// tables that the CPU made, and the resizing is OpenCV's own integer arithmetic. So a GPU, and a CPU that this file is
// compiled for, give the very bits that cv2.resize gives.

struct Job {  // what changes from frame to frame
    unsigned long long frame;  // its number; comes back with the result, so that an old result cannot pass for a new one
    float min_score;
    int row_bytes;  // of the picture
    int left, top, width, height;  // the picture's place in the network input
};

struct Tap {  // the two positions of the picture that one column or row of its place is made of
    int first, second;  // columns: bytes from the start of a row; rows: row numbers
    int first_weight, second_weight;  // of 2048
};

struct Header {  // of the result
    unsigned long long seen;  // number of the frame in the network input
    unsigned long long frame;  // number of the frame whose anchors were looked at
    unsigned int count;  // of the anchors that passed; more than the capacity: the others are not in the result
    unsigned int reserved;
};

static_assert(sizeof(Job) == 32 && sizeof(Tap) == 16 && sizeof(Header) == 24, "layout.py says so, too");

// Bilinear resize of a BGR picture into its place on grey, as RGB planes of the network's element type.
// levels: what 0..255 and then the grey are in that type. One thread per pixel of the network input.
extern "C" __global__ void letterbox(const Job* job, const unsigned int* levels, const Tap* columns, const Tap* rows,
                                     const unsigned char* picture, void* planes, Header* header, int width, int height,
                                     int element_bytes) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x == 0 && y == 0) {
        header->seen = job->frame;
        header->count = 0;
    }
    if (x >= width || y >= height) return;
    unsigned int colour[3] = {levels[256], levels[256], levels[256]};
    const int inside_x = x - job->left, inside_y = y - job->top;
    if (inside_x >= 0 && inside_x < job->width && inside_y >= 0 && inside_y < job->height) {
        const Tap column = columns[inside_x], row = rows[inside_y];
        const unsigned char* upper = picture + (size_t)row.first * job->row_bytes;
        const unsigned char* lower = picture + (size_t)row.second * job->row_bytes;
        for (int channel = 0; channel < 3; ++channel) {
            const int left = column.first + channel, right = column.second + channel;
            const int above = upper[left] * column.first_weight + upper[right] * column.second_weight;
            const int below = lower[left] * column.first_weight + lower[right] * column.second_weight;
            const int level =
                (((row.first_weight * (above >> 4)) >> 16) + ((row.second_weight * (below >> 4)) >> 16) + 2) >> 2;
            colour[channel] = levels[level];
        }
    }
    const size_t plane = (size_t)width * height, pixel = (size_t)y * width + x;
    for (int channel = 0; channel < 3; ++channel) {
        const size_t index = (2 - channel) * plane + pixel;  // blue, green, red in the picture
        if (element_bytes == 2)
            ((unsigned short*)planes)[index] = (unsigned short)colour[channel];
        else
            ((unsigned int*)planes)[index] = colour[channel];
    }
}

__device__ float number(float value) { return value; }

__device__ float number(unsigned short half) {  // exact
    const unsigned int exponent = (half >> 10) & 31, fraction = half & 1023;
    const float sign = (half & 0x8000) ? -1.0f : 1.0f;
    if (exponent == 0) return sign * (fraction / 16777216.0f);
    if (exponent == 31) return fraction ? __int_as_float(0x7fc00000) : sign * __int_as_float(0x7f800000);
    return sign * __int_as_float(((exponent + 112) << 23) | (fraction << 13));
}

// Takes the anchors that have a class above the threshold, or one that is not a number; in any order, with their
// positions. output: (rows, anchors), or (anchors, rows) when transposed. One thread per anchor.
template <typename Element>
__device__ void take(const Job* job, const Element* output, Header* header, int* positions, Element* taken, int rows,
                     int anchors, int transposed, int capacity) {
    const int anchor = blockIdx.x * blockDim.x + threadIdx.x;
    if (anchor == 0) header->frame = header->seen;
    if (anchor >= anchors) return;
    const size_t step = transposed ? 1 : anchors;
    const Element* column = output + (transposed ? (size_t)anchor * rows : (size_t)anchor);
    bool passes = false;
    for (int row = 4; row < rows && !passes; ++row) passes = !(number(column[row * step]) <= job->min_score);
    if (!passes) return;
    const unsigned int slot = atomicAdd(&header->count, 1u);
    if (slot >= (unsigned int)capacity) return;
    positions[slot] = anchor;
    for (int row = 0; row < rows; ++row) taken[(size_t)slot * rows + row] = column[row * step];
}

extern "C" __global__ void take_float(const Job* job, const float* output, Header* header, int* positions,
                                      float* taken, int rows, int anchors, int transposed, int capacity) {
    take(job, output, header, positions, taken, rows, anchors, transposed, capacity);
}

extern "C" __global__ void take_half(const Job* job, const unsigned short* output, Header* header, int* positions,
                                     unsigned short* taken, int rows, int anchors, int transposed, int capacity) {
    take(job, output, header, positions, taken, rows, anchors, transposed, capacity);
}
