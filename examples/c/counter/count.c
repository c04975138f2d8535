#include "count.h"

static bool is_among(uint32_t id, const uint32_t *ids, size_t id_count)
{
    for (size_t i = 0; i < id_count; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

void count_done(count_t *count, uint32_t id)
{
    if (!is_among(id, count->done, count->done_count) && count->done_count < COUNT_MEMBERS_MOST) {
        count->done[count->done_count++] = id;
    }
}

void count_keep(count_t *count, const uint32_t *members, size_t member_count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count->done_count; i++) {
        if (is_among(count->done[i], members, member_count)) {
            count->done[kept++] = count->done[i];
        }
    }
    count->done_count = kept;
}

bool count_all_done(const count_t *count, const uint32_t *members, size_t member_count)
{
    for (size_t i = 0; i < member_count; i++) {
        if (!is_among(members[i], count->done, count->done_count)) {
            return false;
        }
    }
    return true;
}

/* Writes a number in little endian. */
static void put(unsigned char *bytes, uint64_t number, size_t width)
{
    for (size_t i = 0; i < width; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
}

static uint64_t get(const unsigned char *bytes, size_t width)
{
    uint64_t number = 0;
    for (size_t i = 0; i < width; i++) {
        number |= (uint64_t)bytes[i] << (8 * i);
    }
    return number;
}

size_t count_encode(const count_t *count, unsigned char bytes[COUNT_BYTES_MOST])
{
    put(bytes, count->value, 8);
    put(bytes + 8, count->done_count, 4);
    for (size_t i = 0; i < count->done_count; i++) {
        put(bytes + 12 + 4 * i, count->done[i], 4);
    }
    return 12 + 4 * count->done_count;
}

bool count_decode(count_t *count, const unsigned char *bytes, size_t length)
{
    if (length < 12) {
        return false;
    }
    uint64_t done_count = get(bytes + 8, 4);
    if (done_count > COUNT_MEMBERS_MOST || length != 12 + 4 * (size_t)done_count) {
        return false;
    }
    count->value = get(bytes, 8);
    count->done_count = (size_t)done_count;
    for (size_t i = 0; i < count->done_count; i++) {
        count->done[i] = (uint32_t)get(bytes + 12 + 4 * i, 4);
    }
    return true;
}
