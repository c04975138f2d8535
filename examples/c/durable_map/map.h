/* The replicated state: texts by key, in the order of the keys. It knows nothing of groups. */
#ifndef MAP_H
#define MAP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *key, *value;
} entry_t;

/* Empty when it is all zeroes. */
typedef struct {
    entry_t *entries;
    size_t count, capacity;
} map_t;

/* Sets a key from the text "KEY VALUE", `length` bytes; false if it is none, or there is no memory. */
bool map_put(map_t *map, const char *text, size_t length);

/* The value of a key, or NULL. It is valid until the map changes. */
const char *map_get(const map_t *map, const char *key);

/* The whole map as lines "KEY VALUE", to be freed with free(); NULL if there is no memory. */
char *map_text(const map_t *map, size_t *length);

/* Makes the map what such lines say; false if they are none, or there is no memory. */
bool map_take(map_t *map, const char *text, size_t length);

/* Frees all entries. */
void map_clear(map_t *map);

#endif
