/* The replicated state: a number, and who adds nothing to it any more. It knows nothing of groups. */
#ifndef COUNT_H
#define COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The most members of a group. */
#define COUNT_MEMBERS_MOST 64

typedef struct {
    uint64_t value;
    size_t done_count;
    uint32_t done[COUNT_MEMBERS_MOST];
} count_t;

/* Member `id` adds nothing any more. */
void count_done(count_t *count, uint32_t id);

/* Forgets who is not among these members. */
void count_keep(count_t *count, const uint32_t *members, size_t member_count);

/* Whether all these members are done. */
bool count_all_done(const count_t *count, const uint32_t *members, size_t member_count);

/* The most bytes of an encoded state. */
#define COUNT_BYTES_MOST (8 + 4 + 4 * COUNT_MEMBERS_MOST)

/* The state as bytes, the same on every machine; returns how many. */
size_t count_encode(const count_t *count, unsigned char bytes[COUNT_BYTES_MOST]);

/* The state from all of these bytes; false, and no change, if they are none. */
bool count_decode(count_t *count, const unsigned char *bytes, size_t length);

#endif
