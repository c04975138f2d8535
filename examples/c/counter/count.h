/* The replicated state: a number, and the members that have finished. It is independent of groups. */
#ifndef COUNT_H
#define COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The maximum number of members of a group. */
#define COUNT_MEMBERS_MOST 64

typedef struct {
    uint64_t value;
    size_t done_count;
    uint32_t done[COUNT_MEMBERS_MOST];
} count_t;

/* Records that member `id` has finished. */
void count_done(count_t *count, uint32_t id);

/* Deletes the finished members that are not in this list. */
void count_keep(count_t *count, const uint32_t *members, size_t member_count);

/* Whether all members of this list have finished. */
bool count_all_done(const count_t *count, const uint32_t *members, size_t member_count);

/* The maximum size of an encoded state, in bytes. */
#define COUNT_BYTES_MOST (8 + 4 + 4 * COUNT_MEMBERS_MOST)

/* Encodes the state, in the same way on every machine. Returns the number of bytes. */
size_t count_encode(const count_t *count, unsigned char bytes[COUNT_BYTES_MOST]);

/* Decodes a state from these bytes. Returns false and changes nothing if they are not a valid state. */
bool count_decode(count_t *count, const unsigned char *bytes, size_t length);

#endif
