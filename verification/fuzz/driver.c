/* libFuzzer, called by Python in its own process (here.py), and a mutator that knows what an input is: see target.py.
 *
 * Linked into the very module that it watches: its counters are found there, and not those that a sanitizer brings.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerRunDriver(int *count, char ***arguments, int (*one)(const uint8_t *data, size_t size));
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

int fuzz_run(int count, char **arguments, int (*one)(const uint8_t *data, size_t size)) {
    return LLVMFuzzerRunDriver(&count, &arguments, one);
}

static uint64_t state;
static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static const uint64_t CHOSEN[] = {0, 1, 2, 3, 4, 5, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFF, 1 << 12, UINT64_C(1) << 52, ~UINT64_C(0)};
static const unsigned SHIFTS[] = {0, 1, 2, 4, 12, 16, 20, 21, 24, 32, 40, 42, 48, 63};

/* One number of 8 bytes. */
static uint64_t changed(uint64_t value, uint64_t another) {
    unsigned shift = SHIFTS[draw(sizeof SHIFTS / sizeof *SHIFTS)];
    switch (draw(6)) {
    case 0:
        return CHOSEN[draw(sizeof CHOSEN / sizeof *CHOSEN)];
    case 1:
        return another;
    case 2:
        return value ^ UINT64_C(1) << draw(64);
    case 3:
        return draw(2) ? value + (UINT64_C(1) << shift) : value - (UINT64_C(1) << shift);
    case 4: /* a field */
        return (value & ~(UINT64_C(0xF) << shift)) | draw(16) << shift;
    default:
        return value | UINT64_C(0xFFFF) << shift;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed) {
    state = seed * UINT64_C(0x9E3779B97F4A7C15) | 1;
    draw(2);
    size_t begin = size < 4 ? size : 4 + 3 * (size_t)(data[1] % 33);
    size_t numbers = size > begin ? (size - begin) / 8 : 0;
    if (numbers < 2 || draw(3) == 0)
        return LLVMFuzzerMutate(data, size, size_max);
    for (uint64_t turns = 1 + draw(4); turns > 0; turns--) {
        if (draw(4) == 0) { /* a call */
            data[draw(begin)] = (uint8_t)draw(256);
            begin = 4 + 3 * (size_t)(data[1] % 33);
            if (size < begin + 16)
                return size;
            numbers = (size - begin) / 8;
            continue;
        }
        uint64_t value, another;
        /* the root and the words come first: 37 numbers */
        uint8_t *where = data + begin + 8 * draw(draw(3) && numbers > 37 ? 37 : numbers);
        memcpy(&value, where, 8);
        memcpy(&another, data + begin + 8 * draw(numbers), 8);
        value = changed(value, another);
        memcpy(where, &value, 8);
    }
    return size;
}
